"""Unpack layers that storage keeps as squashfs files into directories.

A whiteout cannot be unpacked everywhere: overlayfs itself, which a container's own disk often is, refuses whiteouts. So
they become files `.wh.NAME`, as fuse-overlayfs makes them, and the file `fuse` beside the tree announces them to
profiles.image.overlayfs.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from typing import TYPE_CHECKING

from profiles.errors import ProfilesError
from profiles.image.overlayfs import FUSE_WRITTEN, WHITEOUT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_WHITEOUT = re.compile(rb"^c\S+ +\d+/\d+ +0, *0 +\S+ +\S+ ([^\n]+)$", re.MULTILINE)
"""As `unsquashfs -lln -d ''` lists one; a name with a line end in it is not understood, and what it hid comes back."""


def unpack_with_fuse_marks(squashfs: Path, target: Path, timeout: float) -> None:
    """Unpack a layer into `target`, which is made; files are the caller's. `timeout` in seconds, for each of two steps.

    Raises ProfilesError, OSError.
    """
    listed = _run(["unsquashfs", "-lln", "-d", "", str(squashfs)], timeout)
    whiteouts = [os.fsdecode(path).lstrip("/") for path in _WHITEOUT.findall(listed)]
    excluded = target.with_name(f"{target.name}.whiteouts")
    excluded.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in whiteouts))
    quietly = ["-no-progress", "-quiet", "-no-wildcards"]
    exclude = ["-exclude-file", str(excluded)] if whiteouts else []
    _run(["unsquashfs", *quietly, *exclude, "-dest", str(target), str(squashfs)], timeout)
    if whiteouts:
        target.with_name(FUSE_WRITTEN).touch()
    for path in whiteouts:
        place = target / path
        if not _are_directories(target, place.parent):
            continue  # a part of a name with a line end, which looks like a whiteout in the list
        folder, mode = place.parent, place.parent.stat().st_mode
        folder.chmod(mode | 0o300)
        (folder / f"{WHITEOUT_PREFIX}{place.name}").touch()
        folder.chmod(mode & 0o7777)


def _are_directories(target: Path, folder: Path) -> bool:
    """Whether the folder and each of its parents, up to `target`, is a directory and no link."""
    steps = [folder, *folder.parents]
    return all(stat.S_ISDIR(_mode(step)) for step in steps[: steps.index(target)])


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _run(argv: Sequence[str], timeout: float) -> bytes:
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=True)
    except subprocess.TimeoutExpired as error:
        raise ProfilesError(f"{argv[0]} did not end within {timeout:g} s") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[-500:]
        raise ProfilesError(f"{argv[0]} cannot unpack {argv[-1]}: {said}") from error
    return done.stdout
