"""Trees that are deeper, and paths that are longer, than system calls and Python take at once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DEPTH = 2500
NAME = b"a-folder-with-a-name"


def make_deep(root: Path, depth: int = DEPTH, name: bytes = NAME) -> None:
    """Make a chain of folders with a file at its end; the path of that has some 50,000 bytes."""
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=descriptor)
        inner = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open(b"end", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)


def make_long(root: Path) -> None:
    """Make a file whose path has more than 4,095 bytes, in few folders."""
    make_deep(root, 20, b"n" * 250)
