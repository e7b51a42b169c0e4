"""Create the directories that belong to one user alone."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.config.settings import Config


def make_private(config: Config) -> None:
    """Create the runtime and state directories, for this user only.

    InvalidInputError if another user owns one of them or may write to it: its content could not be trusted.
    """
    for setting, remedy in REMEDIES.items():
        directory: Path = getattr(config, setting)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            pass  # not a directory: `check_private` reports it
        except OSError as error:
            raise InvalidInputError(f"cannot create {directory}: {error.strerror}", hint=remedy) from error
        check_private(directory, remedy)


REMEDIES = {
    "runtime_dir": "set XDG_RUNTIME_DIR, or runtime_dir in ~/.config/berth/config.yaml, to one of your directories on "
    "this machine; the owner of this one may be an attacker",
    "state_dir": "set XDG_STATE_HOME, or state_dir in ~/.config/berth/config.yaml, to one of your directories",
}


def check_private(directory: Path, remedy: str) -> None:
    """Accept a directory, or a link to one, that belongs to this user and that no other user may write to.

    Remove all rights of other users.
    """
    for status in (directory.lstat(), directory.stat() if directory.exists() else None):
        if status is None or not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            raise InvalidInputError(f"{directory} is not a directory", hint=remedy)
        if status.st_uid != os.getuid():
            raise InvalidInputError(f"{directory} belongs to another user", hint=remedy)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o022:
        raise InvalidInputError(f"other users may write to {directory} (mode {mode:04o})", hint=remedy)
    if mode & 0o055:
        directory.chmod(0o700)
