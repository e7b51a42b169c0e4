"""Parts that the commands about the content of images share: the choice of an image, and its inventory."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.progress import ProgressLine

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from profiles.image.store import Image
    from profiles.inventory.model import Inventory


def load_inventory(invocation: Invocation, image: Image) -> tuple[Inventory, bool]:
    """Return the image's inventory, and whether it was made from the image now, which a note then says.

    Raises ProfilesError.
    """
    from profiles.build.inventory_step import inventory_of

    name = f"{image.name}@{image.version}"
    with ProgressLine(f"reading what is in {name}", quiet=invocation.json):
        inventory, is_new = inventory_of(image)
    if is_new and not invocation.json:
        output.print_note(f"{name} has no inventory beside it: this one was made from the image now")
    return inventory, is_new


def count_packages(counts: dict[str, int]) -> str:
    """Return the numbers of packages, as `91 deb, 3 pypi`."""
    return ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "none"
