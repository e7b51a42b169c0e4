"""`berth profile sbom`: what is in an image."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.inventory import count_packages, load_inventory
from broker.cli.params import ProfileName
from broker.cli.stores import catalog_of, profile_errors, store_option
from broker.errors import BerthError, InvalidInputError
from broker.format import pluralize

if TYPE_CHECKING:
    from broker.user_input import ProfileReference
    from profiles.image.store import Image
    from profiles.inventory.model import Inventory

APPTAINER_FOLDER = "/.singularity.d/"
"""Scripts of Apptainer, which every image has and no package owns."""


@click.command()
@click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "cyclonedx", "spdx"]),
    help="CycloneDX 1.6 or SPDX 2.3 as JSON; default: a table, or CycloneDX with --output.",
)
@click.option(
    "--output", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write the document to this file."
)
@store_option
@json_option
@pass_invocation
def sbom(
    invocation: Invocation, wanted: ProfileReference, *, form: str | None, target: Path | None, store: Path | None
) -> None:
    """List what is in an image.

    The packages of dpkg, rpm, apk, Python and npm with their versions, and the executables that no package owns. A
    build makes this inventory, a software bill of materials, and puts it into the image. For an image of an earlier
    release of Berth, the command unpacks the image and makes it now, which takes the programs of a build.
    """
    form = form or ("table" if target is None else "cyclonedx")
    if target is not None and form == "table":
        raise InvalidInputError("--output writes no table", hint="add --format cyclonedx or --format spdx")
    with profile_errors():
        from profiles.inventory.cyclonedx import as_cyclonedx
        from profiles.inventory.spdx import as_spdx

        image = catalog_of(invocation, store).find(wanted.name, wanted.version)
        inventory, is_new = load_inventory(invocation, image)
    if form == "table":
        _print_table(invocation, image, inventory, is_new=is_new)
        return
    document = as_spdx(inventory) if form == "spdx" else as_cyclonedx(inventory)
    if target is None:
        output.write(document)
    else:
        _write(target, document)
        output.print_note(f"wrote {target}")


def _write(target: Path, document: str) -> None:
    try:
        target.write_text(document, encoding="utf-8")
    except OSError as error:
        raise BerthError(f"{target} cannot be written: {error.strerror}") from error


def _print_table(invocation: Invocation, image: Image, inventory: Inventory, *, is_new: bool) -> None:
    if invocation.json:
        parts = {key: value for key, value in asdict(inventory).items() if key != "origin"}
        named = {"name": image.name, "version": image.version, "digest": image.digest, "made_now": is_new}
        output.print_json(named | {"counts": inventory.counts()} | parts)
        return
    rows = [(each.kind.value, each.name, each.version, each.source) for each in inventory.packages]
    output.print_table(("KIND", "NAME", "VERSION", "SOURCE"), rows)
    loose = [each.path for each in inventory.executables]
    for path in loose:
        if not path.startswith(APPTAINER_FOLDER):
            output.print_line(f"file  {path}")
    output.print_note(f"packages: {count_packages(inventory.counts())}")
    of_apptainer = sum(path.startswith(APPTAINER_FOLDER) for path in loose)
    also = f" ({of_apptainer} of Apptainer in {APPTAINER_FOLDER})" if of_apptainer else ""
    output.print_note(f"{pluralize(len(loose), 'executable')} that no package owns{also}")
    for each in inventory.unread:
        output.print_note(f"not read: {each.path}: {each.reason}")
