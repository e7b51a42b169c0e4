"""The private folder of one build on a local disk. It is removed afterwards, however the build ends."""

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
    """Tell where builds work: $TMPDIR, else /var/tmp, the place for large temporary files (hier(7))."""
    return Path(os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108 - the folder made in it is private


def workspace(parent: Path) -> AbstractContextManager[Path]:
    """Make a folder below `parent`, mode 0700, for the time of the block. Raises OSError."""
    return local_folder(parent, PREFIX, namespace.remove_as_root)


def free_bytes(folder: Path) -> int:
    """Tell how much room there is for this user."""
    return shutil.disk_usage(folder).free
