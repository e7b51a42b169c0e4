"""Check what has to be copied, before a session is disturbed for it.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from broker.volumes import progress
from broker.volumes.content import file_state
from broker.volumes.copied_folders import CHANGE_ERRORS, READ_FLAGS, path_below
from broker.volumes.trials import can_share_blocks
from broker.volumes.unreadable import UnreadableFiles

if TYPE_CHECKING:
    from broker.volumes.content import FileState
    from profiles.walk import Folder, Tree


def check_tree(source: Tree, target: str, previous: dict[bytes, FileState]) -> None:
    """Refuse a tree that cannot be copied to the directory `target`. Files that equal those in `previous` will be
    linked.

    OSError with ENOSPC if the copy needs more than the free space; shared blocks need none. UnreadableFilesError names
    files that cannot be read.
    """
    wanted = 0
    counted: set[int] = set()
    unreadable = UnreadableFiles()
    waiting: list[tuple[Folder, bytes | None]] = [(source.root, b"")]
    while waiting:
        folder, path = waiting.pop()
        try:
            for entry in folder.entries():
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    name = os.fsencode(entry.name)
                    below = path_below(path, name)
                    if stat.S_ISDIR(status.st_mode):
                        waiting.append((folder.folder(name), below))
                    elif previous.get(below or b"") != file_state(status) and status.st_ino not in counted:
                        wanted += status.st_blocks * 512
                        if status.st_nlink > 1:
                            counted.add(status.st_ino)
                        if not _can_read(folder, name, status):
                            unreadable.add(folder.below(name))
        except PermissionError:
            unreadable.add(folder.path or b".", is_folder=True)
        except OSError as error:
            if error.errno not in CHANGE_ERRORS:
                raise
    unreadable.refuse()
    _require_room(target, wanted)
    progress.expect(wanted)


def _require_room(target: str, wanted: int) -> None:
    room = os.statvfs(target)
    free = room.f_bavail * room.f_frsize
    if wanted > free and not can_share_blocks(target):
        words = f"{os.strerror(errno.ENOSPC)}: the copy needs {wanted >> 20} MiB, and {free >> 20} MiB are free"
        raise OSError(errno.ENOSPC, words)


def _can_read(folder: Folder, name: bytes, status: os.stat_result) -> bool:
    """Whether the copy can read an entry, tried where its owner may not: root of a namespace can if files are local."""
    if not stat.S_ISREG(status.st_mode) or status.st_mode & stat.S_IRUSR:
        return True
    try:
        os.close(os.open(name, READ_FLAGS, dir_fd=folder.descriptor()))
    except PermissionError:
        return False
    return True
