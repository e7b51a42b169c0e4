"""The content of a tree at any depth, to compare it with a copy's."""

from __future__ import annotations

import os
import stat
from functools import partial
from typing import TYPE_CHECKING

from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from pathlib import Path


def content(root: Path) -> dict[bytes, tuple[int, int, int, bytes]]:
    """Mode, time, names and content of everything below, at any depth."""
    found = {}
    with Tree(root) as tree:
        for entry in walk(tree.root, is_steady=True):
            status, data = entry.status, b""
            if stat.S_ISREG(status.st_mode):
                with open(entry.name, "rb", opener=partial(os.open, dir_fd=entry.folder.descriptor())) as file:
                    data = file.read()
            names = 0 if entry.is_folder else status.st_nlink
            found[entry.path] = (status.st_mode, status.st_mtime_ns, names, data)
    return found
