"""openat2(2): open a path beneath a folder without following any link. Python has no function for it."""

from __future__ import annotations

import ctypes
import errno
import os

_OPENAT2 = 437
"""The number of the system call on every architecture of Linux but alpha."""
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x08, 0x10
"""linux/openat2.h."""
_ATTEMPTS = 20
"""The kernel gives up with EAGAIN if something is renamed meanwhile."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def open_beneath(folder: int, path: bytes, flags: int) -> int:
    """Open `path` below the open `folder`. OSError, ELOOP or EXDEV if a link or `..` is in the path."""
    return _open(folder, path, flags, _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS)


def exists_in_root(folder: int, path: bytes) -> bool:
    """Whether a program whose root is `folder` would find `path`: links are followed, and none leads out."""
    try:
        os.close(_open(folder, path, os.O_PATH, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS))
    except OSError:
        return False
    return True


def _open(folder: int, path: bytes, flags: int, resolve: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_ATTEMPTS):
        found = _libc.syscall(_OPENAT2, folder, path, ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return int(found)
        code = ctypes.get_errno()
        if code != errno.EAGAIN:
            break
    raise OSError(code, os.strerror(code), os.fsdecode(path))
