"""Errors of volume operations, for the launcher's answer."""

from __future__ import annotations

import errno
import os

from profiles.userfile import UnfitFileError

MAX_PATH_CHARACTERS = 1000
"""Limit for a path in a message. A user's path may have any length."""


class VolumeError(Exception):
    """A volume operation failed and changed nothing.

    `kind` is `invalid` (an invalid request), `missing` (no such session, snapshot or layer), `busy` (a job has the
    volumes open), `ended` (the job that was asked has ended), `space` (no space left, or quota used up), `conflict`
    (not possible in this state), `unclear` (Slurm did not answer), or `files` (any other error of the file system).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def shorten_path(path: str) -> str:
    """Return a path for a message. The middle of a long path is left out."""
    half = MAX_PATH_CHARACTERS // 2
    return path if len(path) <= MAX_PATH_CHARACTERS else f"{path[:half]}…{path[-half:]}"


def from_os_error(error: OSError) -> VolumeError:
    """Return an OSError as the VolumeError for the launcher's answer."""
    if isinstance(error, UnfitFileError):
        return VolumeError("files", f"{error.filename} {error.strerror}")
    where = f": {shorten_path(os.fsdecode(error.filename))}" if error.filename else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return VolumeError("space", f"{error.strerror}{where}")
    return VolumeError("files", f"{error.strerror or error}{where}")
