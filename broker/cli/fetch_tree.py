"""Copy the output of a job from the top of its home to a directory of the user, as the user."""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FUSE_WHITEOUT = b".wh."
"""Prefix of fuse-overlayfs's whiteouts, where it cannot create the kernel's whiteouts."""

DRAFT_PREFIX = ".berth-fetch"
"""Prefix of the name of an incomplete file; the name may be shorter than the final one."""
MAX_DRAFT_NAME_BYTES = 24
"""Length of such a name, with a slash before it and one before the path."""
MAX_PATH_BYTES = 4095
"""PATH_MAX in limits.h, without the NUL."""


@dataclass(frozen=True, slots=True)
class Clash:
    """An existing file with another content."""

    path: str


@dataclass(slots=True)
class Fetched:
    copied: list[str] = field(default_factory=list)
    clashes: list[Clash] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    """Paths below the tree that are too long for a system call, in the source or in the target."""

    def add(self, other: Fetched) -> None:
        """Add the result for another tree."""
        self.copied += other.copied
        self.clashes += other.clashes
        self.too_long += other.too_long


def fetch_tree(
    source: Path, target: Path, *, base: Path | None, force: bool, count: Callable[[int], None] = lambda _: None
) -> Fetched:
    """Copy the files and links of the tree `source` into `target`, each with a rename at the end.

    `count` gets the bytes of each copied file. With `base`, copy only those that differ from it. Whiteouts and
    special files are skipped. An existing file with another content is kept unless `force` is set. Raises OSError.
    """
    done = Fetched()
    longest_root = max(len(os.fsencode(each)) for each in (source, target, base or source))
    with Tree(source) as tree:
        results = sorted(entry.path for entry in walk(tree.root) if _is_result(entry.name, entry.status.st_mode))
    for result in results:
        if longest_root + len(result) + MAX_DRAFT_NAME_BYTES > MAX_PATH_BYTES:
            done.too_long.append(os.fsdecode(result))
            continue
        below = os.fsdecode(result)
        origin, copy = source / below, target / below
        if base is not None and _is_same(origin, base / below):
            continue
        if os.path.lexists(copy):
            if _is_same(origin, copy):
                continue
            if not force or copy.is_dir():
                done.clashes.append(Clash(str(copy)))
                continue
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            done.clashes.append(Clash(str(copy)))
            continue
        count(_copy_file(origin, copy))
        done.copied.append(str(copy))
    return done


def _copy_file(origin: Path, copy: Path) -> int:
    """Copy a file or link; return its size. Leave no incomplete file, also after Ctrl-C."""
    draft = copy.with_name(f"{DRAFT_PREFIX}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        shutil.copy2(origin, draft, follow_symlinks=False)
        size = draft.lstat().st_size
        draft.replace(copy)
    finally:
        draft.unlink(missing_ok=True)
    return size


def _is_result(name: bytes, kind: int) -> bool:
    return (stat.S_ISREG(kind) or stat.S_ISLNK(kind)) and not name.startswith(FUSE_WHITEOUT)


def _is_same(one: Path, other: Path) -> bool:
    if not os.path.lexists(other):
        return False
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
