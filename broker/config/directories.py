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
    """Make the runtime and state directories ours alone.

    InvalidInputError for one that somebody else made first, or may write to: what is in it could not be believed.
    """
    for setting, remedy in _REMEDIES.items():
        directory: Path = getattr(config, setting)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            pass  # not a directory: said below
        except OSError as error:
            raise InvalidInputError(f"cannot make {directory}: {error.strerror}", hint=remedy) from error
        _check_private(directory, remedy)


_REMEDIES = {
    "runtime_dir": "set XDG_RUNTIME_DIR, or runtime_dir in ~/.config/berth/config.yaml, to a directory of yours on "
    "this machine; whoever made this one may be up to something",
    "state_dir": "set XDG_STATE_HOME, or state_dir in ~/.config/berth/config.yaml, to a directory of yours",
}


def _check_private(directory: Path, remedy: str) -> None:
    """Accept a directory, or a link of ours to one, that belongs to us and that nobody else may write to; lock the
    others out of it.
    """
    for status in (directory.lstat(), directory.stat() if directory.exists() else None):
        if status is None or not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            raise InvalidInputError(f"{directory} is not a directory", hint=remedy)
        if status.st_uid != os.getuid():
            raise InvalidInputError(f"{directory} belongs to somebody else", hint=remedy)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o022:
        raise InvalidInputError(f"others may write to {directory} (mode {mode:04o})", hint=remedy)
    if mode & 0o055:
        directory.chmod(0o700)
