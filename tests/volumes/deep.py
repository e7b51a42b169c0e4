"""Trees that are deeper, and paths that are longer, than system calls and Python take at once."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEPTH = 2500
NAME = b"a-folder-with-a-name"


def make_deep(root: Path, depth: int = DEPTH, name: bytes = NAME) -> None:
    """Make a chain of folders with a file at its end; the path of that has some 50,000 bytes."""
    make_chain(root, depth, name, b"end")


def make_long(root: Path) -> None:
    """Make a file whose path has more than 4,095 bytes, in few folders."""
    make_deep(root, 20, b"n" * 250)


def make_chain(root: Path, depth: int, name: bytes, end: bytes = b"") -> None:
    """Make `depth` folders called `name` within each other, unless they are there, and a file `end` in the last."""
    with Tree(root) as tree:
        folder = tree.root
        for _ in range(depth):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder.descriptor())
            folder = folder.folder(name)
        if end:
            os.close(os.open(end, os.O_WRONLY | os.O_CREAT, dir_fd=folder.descriptor()))


@contextlib.contextmanager
def removed_afterwards(root: Path) -> Iterator[Path]:
    """Remove what is in `root` at the end: pytest's own way is not made for such trees."""
    try:
        yield root
    finally:
        with Tree(root) as tree:
            for entry in reversed([*walk(tree.root)]):
                (os.rmdir if entry.is_folder else os.unlink)(entry.name, dir_fd=entry.folder.descriptor())
