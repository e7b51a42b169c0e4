"""The directories of a store: listed, cleared of abandoned stages, and written to disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import TYPE_CHECKING

from profiles.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

STALE_STAGE_S = 86400.0
"""Seconds after which a stage is the leftover of a killed builder: no build may take that long."""


def version_directories(profile: Path) -> list[Path]:
    """Return the published versions of a profile; none if its directory is private, or not there."""
    return visible_directories(profile) if os.access(profile, os.R_OK | os.X_OK) else []


def visible_directories(directory: Path) -> list[Path]:
    """Return the directories whose names do not begin with a dot; none if there is no such directory."""
    try:
        return sorted(path for path in directory.iterdir() if not path.name.startswith(".") and path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"cannot read the store {directory}: {error.strerror}") from error


def sweep_stages(directory: Path) -> None:
    """Remove the stages that killed builders of this user left long ago."""
    for path in directory.glob(".*"):
        with contextlib.suppress(OSError):
            status = path.lstat()
            if status.st_uid == os.getuid() and status.st_mtime < time.time() - STALE_STAGE_S:
                shutil.rmtree(path)


def sync_to_disk(path: Path) -> None:
    """Write the content of `path` to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
