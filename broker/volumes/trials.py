"""Test what the file system of a copy does, with files of Berth's own.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time

from broker.volumes.content import FICLONE, file_state, write_dirty_pages

STORE_TRIAL_S = 0.5
"""Seconds for a store of this program to show in a time stamp. The clock of the slowest file servers has coarser steps,
and is not trusted."""
STORE_TRIAL_STEP_S = 0.005
"""A little more than a kernel's tick, which is the step of most time stamps."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


def can_share_blocks(directory: str) -> bool:
    """Whether files in `directory` can share their blocks (ioctl_ficlone(2))."""
    names = [os.path.join(directory, name) for name in ("try", "trial")]
    source, target = (os.open(name, _NEW, 0o600) for name in names)
    try:
        os.write(source, b"x" * 4096)
        fcntl.ioctl(target, FICLONE, source)
    except OSError:
        return False
    finally:
        for descriptor, name in zip((source, target), names, strict=True):
            os.close(descriptor)
            os.unlink(name)
    return True


def shows_stores(directory: str) -> bool:
    """Whether a store into a clean page of a mapping changes the time of change of a file in `directory`.

    It does not if the file system writes nothing out (tmpfs), or changes times only when it does (FUSE).
    """
    path = os.path.join(directory, "trial")
    descriptor = os.open(path, _NEW, 0o600)
    try:
        os.write(descriptor, b"x" * mmap.PAGESIZE)
        with mmap.mmap(descriptor, mmap.PAGESIZE) as mapped:
            deadline = time.monotonic() + STORE_TRIAL_S
            while time.monotonic() < deadline:
                mapped[0] = 1
                if not write_dirty_pages(descriptor):
                    return False
                before = file_state(os.fstat(descriptor))
                time.sleep(STORE_TRIAL_STEP_S)
                mapped[0] = 2
                if file_state(os.fstat(descriptor)) != before:
                    return True
        return False
    except OSError:
        return False
    finally:
        os.close(descriptor)
        os.unlink(path)
