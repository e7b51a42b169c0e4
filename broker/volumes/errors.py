"""Errors of volume operations, for the launcher's answer."""

from __future__ import annotations

import errno
import os

from profiles.userfile import UnfitFileError

MAX_PATH_CHARACTERS = 1000
"""Of a path in a message. A path of a user's may have any length."""


class VolumeError(Exception):
    """Nothing was changed.

    `kind` is `invalid` (the request makes no sense), `missing` (a session, snapshot or layer is not there), `busy` (a
    job has the volumes open), `ended` (the job that was to do it has ended), `space` (no space left, or quota used up),
    `conflict` (not in this state), `unclear` (Slurm did not answer), or `files` (anything else that the file system
    says).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def shorten_path(path: str) -> str:
    """Return a path for a message: of a long one without its middle."""
    half = MAX_PATH_CHARACTERS // 2
    return path if len(path) <= MAX_PATH_CHARACTERS else f"{path[:half]}…{path[-half:]}"


def from_os_error(error: OSError) -> VolumeError:
    """The same failure in the launcher's words."""
    if isinstance(error, UnfitFileError):
        return VolumeError("files", f"{error.filename} {error.strerror}")
    where = f": {shorten_path(os.fsdecode(error.filename))}" if error.filename else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return VolumeError("space", f"{error.strerror}{where}")
    return VolumeError("files", f"{error.strerror or error}{where}")
