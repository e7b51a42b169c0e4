"""Which driver a file system and a kernel allow, found by trying."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from broker.volumes.copying import FICLONE
from broker.volumes.layers import remove_tree

LIMIT = 20
"""Seconds for one try."""

TRY_KERNEL = """
mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work merged
"""
TRY_FUSE = """
fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work merged
"""
USE = "echo changed >merged/file && rm merged/gone && mkdir merged/folder && umount merged"


@dataclass(frozen=True, slots=True)
class Probe:
    """The driver that a directory's file system gets, and why."""

    driver: str
    why: str


def probe(directory: Path) -> Probe:
    """Choose for sessions below `directory`, which must exist and be writable. OSError if it is not."""
    room = Path(tempfile.mkdtemp(prefix=".probe-", dir=directory))
    try:
        kernel = _overlay(room / "kernel", TRY_KERNEL)
        if not kernel:
            return Probe("overlay", "kernel overlayfs works here in a user namespace")
        if _reflink(room):
            return Probe("reflink", f"the kernel refuses overlayfs ({kernel}), but files can share blocks")
        if not _overlay(room / "fuse", TRY_FUSE):
            return Probe("overlay", f"the kernel refuses overlayfs ({kernel}); fuse-overlayfs works, slower")
        return Probe("plain", f"neither overlayfs ({kernel}) nor shared blocks work here")
    finally:
        remove_tree(room)


def _overlay(room: Path, script: str) -> str:
    """Mount an overlay and change something through it; what was said if that fails."""
    for name in ("lower", "upper", "work", "merged"):
        (room / name).mkdir(parents=True)
    (room / "lower/file").write_text("a file\n")
    (room / "lower/gone").write_text("a file\n")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-euc", script + USE]
    try:
        done = subprocess.run(command, cwd=room, capture_output=True, text=True, timeout=LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().splitlines()
    return said[-1][:200] if said else f"exit code {done.returncode}"


def _reflink(room: Path) -> bool:
    source, target = room / "source", room / "target"
    source.write_bytes(os.urandom(4096))
    with source.open("rb") as read, target.open("wb") as written:
        try:
            fcntl.ioctl(written, FICLONE, read.fileno())
        except OSError:
            return False
    return True
