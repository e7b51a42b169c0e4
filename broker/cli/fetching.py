"""Copying what a job wrote out of its home's top, as the user, to where the user works."""

from __future__ import annotations

import filecmp
import os
import shutil
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

FUSE_WHITEOUT = ".wh."
"""How fuse-overlayfs marks what was deleted, where it cannot make the kernel's marks."""


@dataclass(frozen=True, slots=True)
class Clash:
    """A file that is there already and is another one."""

    path: str


@dataclass(slots=True)
class Fetched:
    copied: list[str] = field(default_factory=list)
    clashes: list[Clash] = field(default_factory=list)


def fetch_tree(source: Path, target: Path, *, base: Path | None, force: bool) -> Fetched:
    """Copy the files and links of the tree `source` into `target`, each by a rename; which, as paths.

    With `base` only those that are not the same there. Marks of deletion delete nothing; files of other kinds are
    passed over. One that is there with another content is left, unless `force`. OSError.
    """
    done = Fetched()
    for folder, folders, names in os.walk(source):
        folders.sort()
        below = os.path.relpath(folder, source)
        for name in sorted([*names, *(each for each in folders if os.path.islink(f"{folder}/{each}"))]):  # noqa: PTH114
            place = source / below / name
            kind = place.lstat().st_mode
            known = base / below / name if base is not None else None
            if not _is_result(name, kind) or (known is not None and _same(place, known)):
                continue
            aim = target / below / name
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
            fresh = aim.with_name(f".{name}.berth-fetch")
            fresh.unlink(missing_ok=True)
            shutil.copy2(place, fresh, follow_symlinks=False)
            fresh.replace(aim)
            done.copied.append(str(aim))
    return done


def _is_result(name: str, kind: int) -> bool:
    return (stat.S_ISREG(kind) or stat.S_ISLNK(kind)) and not name.startswith(FUSE_WHITEOUT)


def _same(one: Path, other: Path) -> bool:
    if not os.path.lexists(other):
        return False
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
