"""`berth profile export`: make a container image for other engines."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.registries import RegistryImage, TransferAmounts, access_of, move_tag_option
from broker.cli.stores import catalog_of, profile_errors, show_steps_on, store_option
from broker.errors import InvalidInputError
from broker.format import format_size

if TYPE_CHECKING:
    from broker.user_input import ProfileReference
    from profiles.oci.reference import ImageReference

ARCHIVE = "oci-archive:"


class ExportTarget(click.ParamType["Path | ImageReference"]):
    """An archive file, or the name of an image in a registry."""

    name = "target"

    def convert(
        self, value: str | Path | ImageReference, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | ImageReference:
        if not isinstance(value, str):
            return value
        if not value.startswith(ARCHIVE):
            return RegistryImage().convert(value, param, ctx)
        if not (file := value.removeprefix(ARCHIVE)) or "\0" in file:
            self.fail(f"{ARCHIVE} has no file", param, ctx)
        return Path(file)


@click.command()
@click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION]")
@click.argument("target", type=ExportTarget(), metavar="oci-archive:FILE|REGISTRY/NAME[:TAG]")
@store_option
@move_tag_option
@json_option
@pass_invocation
def export(
    invocation: Invocation,
    wanted: ProfileReference,
    target: Path | ImageReference,
    store: Path | None,
    *,
    move_tag: bool,
) -> None:
    """Make a container image for other engines.

    The same files, owners and environment as in sessions, as an OCI image that podman, docker and buildah run, and that
    a devcontainer.json can name. It goes to a new file, or to a registry. A session is more than its image: services,
    volumes and resources stay with Berth.
    """
    with profile_errors():
        from broker.cli.progress import ProgressLine
        from profiles.exchange.export import export_image
        from profiles.oci.registry_access import RegistryAccess

        image = catalog_of(invocation, store).find(wanted.name, wanted.version)
        if isinstance(target, Path):
            access = RegistryAccess()
            if move_tag:
                raise InvalidInputError("a file has no tag to move", hint="leave --move-tag out")
        else:
            access = access_of(invocation, target)
        amounts = TransferAmounts()
        with ProgressLine(quiet=invocation.json, amounts=amounts.text) as line:
            exported = export_image(
                image, target, access=access, move_tag=move_tag, progress=show_steps_on(line), transfer=amounts.update
            )
    if invocation.json:
        shown = {"name": image.name, "version": image.version, "image_digest": image.digest}
        output.print_json({**shown, "target": exported.where, "digest": exported.digest, "size": exported.size})
    else:
        output.print_line(f"{exported.where} {exported.digest} {format_size(exported.size)}")
