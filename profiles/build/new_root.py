"""Run a command in a new root, and leave the old one for good: the end of `inside/confine.sh`.

`python new_root.py ROOT COMMAND...`, in a mount namespace of its own, where ROOT is a mount point. Not pivot_root(8),
which some releases of Debian do not install. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

MNT_DETACH = 2
"""umount2(2)."""
OLD = "before"
"""The name of the old root in the new one, for a moment."""


def enter_new_root(root: str) -> None:
    """Make `root` the root of this process and its namespace, and let go of the old one. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    os.chdir(root)
    Path(OLD).mkdir()
    _check(libc.pivot_root(b".", OLD.encode()), "pivot_root")
    os.chdir("/")
    _check(libc.umount2(f"/{OLD}".encode(), MNT_DETACH), "umount2")
    Path("/", OLD).rmdir()


def _check(result: int, call: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")


if __name__ == "__main__":
    enter_new_root(sys.argv[1])
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command of the caller
