"""The directories of a store: listed, cleared of abandoned stages, and written to disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from profiles.errors import StoreError
from profiles.userfile import UnfitFileError, open_regular, too_large

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


def read_owned_text(path: Path, limit: int) -> str:
    """Return a regular file of the owner of its directory, or of root, that no other user can change.

    UnfitFileError for another one and for more than `limit` bytes, OSError.
    """
    owner = path.parent.stat().st_uid
    with open_regular(path, limit, own=False) as file:
        status = os.fstat(file.fileno())
        if status.st_uid not in {owner, 0}:
            raise UnfitFileError(path, "does not belong to the owner of the image")
        if status.st_mode & 0o022:
            raise UnfitFileError(path, "can be changed by other users")
        content = bytearray()
        while len(content) <= limit and (piece := file.read(limit + 1 - len(content))):
            content += piece
    if len(content) > limit:
        raise too_large(path, limit)  # it has grown since
    return content.decode(errors="replace")


def replace_text(path: Path, text: str, *, like: Path) -> None:
    """Write a file as a whole and on disk, with the mode of `like`. StoreError, with nothing changed."""
    try:
        write_whole(path, text, stat.S_IMODE(like.stat().st_mode))
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}", hint="only the store's owner can") from error


def write_whole(path: Path, text: str, mode: int) -> None:
    """Write a file as a whole and on disk. OSError, with nothing changed."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_to_disk(path.parent)
