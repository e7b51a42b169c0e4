"""`berth profile sign`: sign an image in a store."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.stores import OTHER, catalog_of, profile_errors, store_option

if TYPE_CHECKING:
    from broker.user_input import ProfileReference


@click.command()
@click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION]")
@click.option(
    "--key",
    "key_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    required=True,
    help="The private key, a PEM file that only you can read.",
)
@store_option
@json_option
@pass_invocation
def sign(invocation: Invocation, wanted: ProfileReference, key_file: Path, store: Path | None) -> None:
    """Sign an image that is published.

    Reads the whole image first, and signs only what was published. Replaces an earlier signature. You need to own the
    store. `openssl genpkey -algorithm ed25519 -out FILE` makes a key.
    """
    from broker.cli.signatures import load_key
    from broker.config.signature_policy import signature_policy

    with profile_errors():
        from profiles.image.store import verify_image
        from profiles.signature.signing import signature_of, write_signature

        key = load_key(key_file)
        catalog = catalog_of(invocation, store)
        image = catalog.find(wanted.name, wanted.version)
        owner, label = catalog.owner_of(image) or OTHER, f"{image.name}@{image.version}"
        policy = signature_policy(invocation.config)
        signer = policy.require_signer(key.public, label, owner, image.directory.parent.parent, time.time())
        verify_image(image)
        write_signature(image, signature_of(image, key, time.time()))
    if invocation.json:
        signed = {"name": image.name, "version": image.version, "digest": image.digest}
        output.print_json(signed | {"key": key.public.key_id, "signer": signer or None})
        return
    output.print_note(f"signed {label} with the key {key.public.key_id}{f' of {signer}' if signer else ''}")
    if not signer and policy.signers:
        output.print_note(f"This key does not count for it here: `berth profile verify {label}` says why.")
