"""The part of a build that makes the inventory, as root of the image's tree.

`python -m profiles.inventory.inventory_worker FOLDER`: FOLDER has `inventory.json`, the request, and gets both
documents. An error is one line, for the build's log and message.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from profiles.inventory.collect import collect_inventory
from profiles.inventory.cyclonedx import as_cyclonedx
from profiles.inventory.model import (
    CYCLONEDX_NAME,
    INVENTORY_PLACE,
    SPDX_NAME,
    ImageOrigin,
    InstalledPackage,
    InventoryError,
    PackageKind,
)
from profiles.inventory.spdx import as_spdx
from profiles.walk import FOLDER_FLAGS

INVENTORY_REQUEST = "inventory.json"


@dataclass(frozen=True, slots=True)
class InventoryRequest:
    """The arguments of an inventory."""

    tree: str
    origin: ImageOrigin
    is_kept: bool
    """Whether the image gets the documents too."""
    features: tuple[InstalledPackage, ...] = ()
    """Those that this build has installed."""

    def write(self, folder: Path) -> None:
        (folder / INVENTORY_REQUEST).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> InventoryRequest:
        data = json.loads((folder / INVENTORY_REQUEST).read_text())
        features = tuple(
            InstalledPackage(PackageKind(each["kind"]), each["name"], each["version"], digest=each["digest"])
            for each in data["features"]
        )
        return cls(data["tree"], ImageOrigin(**data["origin"]), data["is_kept"], features)


def put_into_tree(tree: Path, documents: dict[str, str]) -> None:
    """Write the documents into the tree, below /usr/share/berth. InventoryError if a link is on the way."""
    descriptor = os.open(tree, FOLDER_FLAGS)
    try:
        for name in INVENTORY_PLACE.split("/"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=descriptor)
            inner = os.open(name, FOLDER_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        for name, text in documents.items():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=descriptor)
            created = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=descriptor)
            with os.fdopen(created, "w", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise InventoryError(
            f"the inventory cannot be written to /{INVENTORY_PLACE} of the image: {error.strerror}",
            hint="each part of this path must be a directory, and no link",
        ) from error
    finally:
        os.close(descriptor)


def main(folder: Path) -> int:
    request = InventoryRequest.read(folder)
    try:
        inventory = collect_inventory(Path(request.tree), request.origin, request.features)
        documents = {CYCLONEDX_NAME: as_cyclonedx(inventory), SPDX_NAME: as_spdx(inventory)}
        if request.is_kept:
            put_into_tree(Path(request.tree), documents)
    except InventoryError as error:
        print(f"error: {error.message}" + (f"; {error.hint}" if error.hint else ""))
        return 1
    for name, text in documents.items():
        (folder / name).write_text(text, encoding="utf-8")
    counts = ", ".join(f"{number} {kind}" for kind, number in inventory.counts().items())
    print(f"packages: {counts or 'none'}; executables that no package owns: {len(inventory.executables)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
