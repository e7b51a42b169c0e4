"""`berth profile push`: copy an image to a registry."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.registries import RegistryImage, TransferAmounts, access_of, move_tag_option
from broker.cli.signatures import load_key
from broker.cli.stores import catalog_of, profile_errors, store_option

if TYPE_CHECKING:
    from broker.user_input import ProfileReference
    from profiles.oci.reference import ImageReference


@click.command()
@click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION]")
@click.argument("target", type=RegistryImage(), metavar="REGISTRY/NAME[:TAG]")
@store_option
@move_tag_option
@click.option(
    "--sign-key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Sign the image and its provenance in the registry for other tools, as cosign does, with this private key.",
)
@json_option
@pass_invocation
def push(
    invocation: Invocation,
    wanted: ProfileReference,
    target: ImageReference,
    store: Path | None,
    sign_key: Path | None,
    *,
    move_tag: bool,
) -> None:
    """Copy an image to a registry.

    Without a TAG the version becomes the tag, with `_` for `+` and `~`, which tags cannot have. The recipe, the list of
    packages, the provenance and the other files beside the image go with it. `berth profile pull` and
    `apptainer pull oras://` take it.
    A tag that names another image stays, unless --move-tag is given.

    Berth uses the logins of `podman login` and `skopeo login`.
    """
    with profile_errors():
        from broker.cli.progress import ProgressLine
        from profiles.exchange.push import push_image

        key = None if sign_key is None else load_key(sign_key)
        image = catalog_of(invocation, store).find(wanted.name, wanted.version)
        amounts = TransferAmounts()
        title = f"pushing {image.name}@{image.version} to {target.registry}"
        with ProgressLine(title, quiet=invocation.json, amounts=amounts.text):
            pushed = push_image(
                image,
                target,
                access=access_of(invocation, target),
                move_tag=move_tag,
                progress=amounts.update,
                sign_key=key,
            )
    if invocation.json:
        output.print_json(
            {
                "name": image.name,
                "version": image.version,
                "reference": str(pushed.reference),
                "digest": pushed.digest,
                "image_digest": image.digest,
                "size": image.size,
                "uploaded": pushed.uploaded,
                "attached": pushed.attached,
            }
        )
    else:
        output.print_line(f"{pushed.reference}@{pushed.digest}")
        if not pushed.uploaded:
            output.print_note("the registry had the image already")
