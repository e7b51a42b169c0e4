"""Which driver a file system and a kernel allow, found by trying."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from broker.volumes.content import FICLONE
from broker.volumes.layers import remove_tree
from broker.volumes.program import run
from broker.volumes.record import write
from profiles.userfile import read_bytes

LIMIT = 20
"""Seconds for one try."""

TRY_KERNEL = """
mount -t overlay overlay -o userxattr,lowerdir=lower,upperdir=upper,workdir=work merged
"""
TRY_FUSE = """
fuse-overlayfs -o lowerdir=lower,upperdir=upper,workdir=work merged
"""
USE = "echo changed >merged/file && rm merged/gone && mkdir merged/folder && umount merged"


FRESH = 86400.0
"""Seconds for which what was found holds for new sessions, on the same machine, kernel and file system: mounting to
find out takes longer than all else that a new session needs."""
NOTE_BYTES = 64 * 1024
"""Limit for the file that keeps the result, which has some hundred bytes."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The driver that a directory's file system gets, and why."""

    driver: str
    why: str


def remembered(directory: Path, note: Path) -> Probe:
    """As `probe`, but what was found within FRESH is taken from the file `note`."""
    where = _where(directory)
    try:
        found = json.loads(read_bytes(note, NOTE_BYTES))
        if found["where"] == where and 0 <= time.time() - found["at"] < FRESH:
            return Probe(str(found["driver"])[:20], str(found["why"])[:500])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # not there, or not ours
    return probe_anew(directory, note)


def probe_anew(directory: Path, note: Path) -> Probe:
    """As `probe`, and note it for `remembered`."""
    found = probe(directory)
    said = {"where": _where(directory), "at": time.time(), **asdict(found)}
    with contextlib.suppress(OSError):  # a full disk: then the next one tries again
        write(note, json.dumps(said).encode())
    return found


def _where(directory: Path) -> list[str]:
    """What the answer depends on."""
    system = os.uname()
    return [system.nodename, system.release, str(directory.stat().st_dev)]


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
        done = run(command, timeout=LIMIT, cwd=room)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
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
