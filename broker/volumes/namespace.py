"""A user namespace in which the user is root over their own files, and over nobody else's.

People make folders that they themselves cannot enter (mode 000), and overlayfs leaves some; whoever copies or removes
a tree has to get past them. Inside such a namespace the kernel lets its root do so where owner and group are mapped,
which are the user's own and no others (user_namespaces(7), capabilities(7)).
"""

from __future__ import annotations

import contextlib
import ctypes
import os

CLONE_NEWUSER = 0x10000000  # linux/sched.h


def become_root_of_own_files() -> bool:
    """Enter such a namespace for good; False where the kernel does not let users make one, and nothing has changed.

    For a process with one thread that is about to end anyway. In it, one's own files seem to be root's.
    """
    if os.geteuid() == 0:
        return True
    uid, gid = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        return False
    with contextlib.suppress(FileNotFoundError):
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")
    return True


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
