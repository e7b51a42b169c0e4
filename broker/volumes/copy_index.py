"""The file `index` of a copied layer: by path, the state of each source file that a later copy may link.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.volumes.copied_folders import MAX_PATH_BYTES
from profiles.userfile import read_records

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from broker.volumes.content import FileState

INDEX_HEAD = b"proven"
"""The first record of an index. An index without it has files whose later changes may not show."""
MAX_INDEX_BYTES = 1 << 30
"""Limit for an index that is read: some ten million files. A larger one counts as none, so everything is copied."""
MAX_INDEX_RECORD_BYTES = MAX_PATH_BYTES + 84
"""Limit for one record: a path, four numbers of up to 20 digits, and blanks."""


def read_index(path: str | Path) -> dict[bytes, FileState]:
    """Return the entries of an index by path. Empty if the file is no index, or does not promise that its states are
    proven.
    """
    found = {}
    try:
        # Its owner may have replaced it by anything. In root mode it belongs to an id of the namespace.
        records = read_records(path, MAX_INDEX_BYTES, longest=MAX_INDEX_RECORD_BYTES, own=False)
        if next(records, b"") != INDEX_HEAD:
            return {}
        for record in records:
            inode, changed, modified, size, name = record.split(b" ", 4)
            found[name] = (int(inode), int(changed), int(modified), int(size))
    except (OSError, ValueError):
        return {}
    return found


def write_index(path: str, entries: Iterable[tuple[bytes, FileState]]) -> None:
    """Write an index with these paths, none longer than MAX_PATH_BYTES. OSError."""
    with open(path, "wb") as file:
        file.write(INDEX_HEAD + b"\0")
        file.writelines(b"%d %d %d %d %s\0" % (*state, name) for name, state in entries)
