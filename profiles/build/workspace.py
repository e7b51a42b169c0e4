"""The private folder of one build on a local disk. It is removed at the end of the build, in any case."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from profiles.build import namespace
from profiles.local_folder import local_folder

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

PREFIX = "berth-build-"


def default_parent() -> Path:
    """Return the folder for builds: $TMPDIR, else /var/tmp, which is for large temporary files (hier(7))."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - the folder made in it is private


def workspace(parent: Path) -> AbstractContextManager[Path]:
    """Make a folder below `parent`, mode 0700, for the time of the block. Raises OSError."""
    return local_folder(parent, PREFIX, namespace.remove_as_root)


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write."""
    return shutil.disk_usage(folder).free
