"""`berth profile pull`: copy an image from a registry into a store."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.registries import RegistryImage, TransferAmounts, access_of
from broker.cli.stores import (
    OTHER,
    config_catalog,
    note_target,
    print_published,
    profile_errors,
    target_of,
    target_option,
)

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.oci.reference import ImageReference


@click.command()
@click.argument("source", type=RegistryImage(), metavar="REGISTRY/NAME[:TAG|@DIGEST]")
@target_option
@click.option("--name", default="", metavar="NAME", help="For an image without a recipe: its name as a profile.")
@click.option("--profile-version", default="", metavar="VERSION", help="For an image without a recipe: its version.")
@json_option
@pass_invocation
def pull(
    invocation: Invocation, source: ImageReference, store: Path | None, *, name: str, profile_version: str
) -> None:
    """Copy an image from a registry.

    It is published like one that was built here, under its own name and version, after its size, its digest, its recipe
    and its description were checked. A version that is there with the same content is kept, and one with
    another content is an error. An image whose signature contradicts it is refused; where the site requires signatures,
    so is one without a signature that counts in this store.

    Images of `apptainer push oras://` have no recipe: they are called after the last part of NAME and the TAG, or as
    --name and --profile-version say.
    """
    with profile_errors():
        from broker.cli.progress import ProgressLine
        from broker.config.signature_policy import signature_policy
        from broker.profile_options import check_profile_option
        from profiles.exchange.foreign_image import ForeignName
        from profiles.exchange.pull import pull_image

        target = target_of(invocation, store)
        note_target(invocation, store, target)
        policy = signature_policy(invocation.config)
        owner = config_catalog(invocation.config).owner_at(target.path) or OTHER
        amounts = TransferAmounts()
        with ProgressLine(f"pulling {source}", quiet=invocation.json, amounts=amounts.text):
            pulled = pull_image(
                source,
                store=target,
                access=access_of(invocation, source),
                foreign_name=ForeignName(name, profile_version),
                check_option=check_profile_option,
                admit=lambda image: policy.require(image, owner, time.time()),
                progress=amounts.update,
            )
    if not pulled.is_new:
        output.print_note(f"{pulled.image.name}@{pulled.image.version} was there already, with the same digest")
    for missing in pulled.missing:
        output.print_note(f"the registry does not have the image's {missing} any more")
    manifest = str(source.with_digest(pulled.digest))
    print_published(invocation, pulled.image, {"reference": manifest, "new": pulled.is_new, "missing": pulled.missing})
