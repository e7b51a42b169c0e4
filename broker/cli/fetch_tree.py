"""Copy the output of a job from the top of its home to a directory of the user's, as the user."""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from pathlib import Path

FUSE_WHITEOUT = b".wh."
"""How fuse-overlayfs marks what was deleted, where it cannot make the kernel's marks."""

DRAFT_PREFIX = ".berth-fetch"
"""Begins the name of a file that is not whole yet, which may be shorter than its own."""
MAX_DRAFT_NAME_BYTES = 24
"""Of such a name, with a slash before it and one before the path."""
MAX_PATH_BYTES = 4095
"""PATH_MAX in limits.h, without the NUL."""


@dataclass(frozen=True, slots=True)
class Clash:
    """A file that is there already and is another one."""

    path: str


@dataclass(slots=True)
class Fetched:
    copied: list[str] = field(default_factory=list)
    clashes: list[Clash] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    """Paths below the tree that a system call cannot take where they are, or where they are to come to."""


def fetch_tree(source: Path, target: Path, *, base: Path | None, force: bool) -> Fetched:
    """Copy the files and links of the tree `source` into `target`, each by a rename; which, as paths.

    With `base` only those that are not the same there. Marks of deletion delete nothing; files of other kinds are
    passed over. One that is there with another content is left, unless `force`; one with too long a path is, too.
    OSError.
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
        place, aim = source / below, target / below
        if base is not None and _same(place, base / below):
            continue
        if os.path.lexists(aim):
            if _same(place, aim):
                continue
            if not force or aim.is_dir():
                done.clashes.append(Clash(str(aim)))
                continue
        try:
            aim.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            done.clashes.append(Clash(str(aim)))
            continue
        fresh = aim.with_name(f"{DRAFT_PREFIX}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        shutil.copy2(place, fresh, follow_symlinks=False)
        fresh.replace(aim)
        done.copied.append(str(aim))
    return done


def _is_result(name: bytes, kind: int) -> bool:
    return (stat.S_ISREG(kind) or stat.S_ISLNK(kind)) and not name.startswith(FUSE_WHITEOUT)


def _same(one: Path, other: Path) -> bool:
    if not os.path.lexists(other):
        return False
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
