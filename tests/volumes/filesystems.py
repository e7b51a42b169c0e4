"""File systems of every kind that drivers are made for, each in a file of its own, mounted for the tests."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 4 * 2**30
"""Bytes that a file system may grow to; its file is sparse."""
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "nodiscard", "-m", "0"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
}


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One that is mounted."""

    kind: str
    path: Path


@contextlib.contextmanager
def mounted(kind: str, folder: Path, *, size: int = SIZE) -> Iterator[FileSystem]:
    """A file system of this kind, empty, for the time of the block; needs root."""
    image, place = folder / f"{kind}.img", folder / kind
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([*MAKE[kind], image], check=True, capture_output=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True, timeout=60)
    try:
        place.chmod(0o755)
        yield FileSystem(kind, place)
    finally:
        subprocess.run(["umount", "--lazy", place], check=True, capture_output=True, timeout=60)
        image.unlink()
