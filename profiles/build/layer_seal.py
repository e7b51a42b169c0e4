"""The seal of a cached layer: a digest over everything that the kernel says of its files, but not their bytes.

A file's time of last change (ctime) tells of every later write, and no program can set it back. So the seal finds what
a cleaner of temporary files has removed, what was written after the seal, and what a crash has cut off, in the time of
a walk. `python -m profiles.build.layer_seal DIRECTORY` prints it, as root of the tree: some directories are closed to
their user.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.build.tree_program import run_tree_module
from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.build.command import ProgramRunner

BLOCK_BYTES = 512
"""The unit of st_blocks, stat(2)."""


@dataclass(frozen=True, slots=True)
class LayerSeal:
    """The digest, and the bytes that the layer takes on the disk."""

    digest: str
    size: int


def seal_of(tree: Path, run: ProgramRunner) -> LayerSeal:
    """Return the seal of a layer's tree. Raises what `run` raises."""
    digest, size = run_tree_module(run, "profiles.build.layer_seal", str(tree)).split()[-2:]
    return LayerSeal(digest, int(size))


def compute_seal(tree: str) -> LayerSeal:
    """Return the seal of a tree of this user's. Raises OSError."""
    lines, size = list[bytes](), 0
    with Tree(tree) as opened:
        for entry in walk(opened.root, is_steady=True):
            status = entry.status
            size += status.st_blocks * BLOCK_BYTES
            numbers = (
                status.st_ino,
                status.st_mode,
                status.st_uid,
                status.st_gid,
                status.st_size,
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_rdev,
            )
            lines.append(b"%s\0%s" % (entry.path, repr(numbers).encode()))
    lines.sort()
    digest = hashlib.sha256()
    for line in lines:
        digest.update(b"%d:%s" % (len(line), line))
    return LayerSeal(f"sha256:{digest.hexdigest()}", size)


if __name__ == "__main__":
    sealed = compute_seal(sys.argv[1])
    print(sealed.digest, sealed.size)
