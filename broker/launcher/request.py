"""The context of one launcher request: its user, and the paths where it may act. All verbs share it."""

from __future__ import annotations

import pwd
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from broker.names import IDENTIFIER, USER_PATTERN

USER_NAME = re.compile(USER_PATTERN)


class VerbError(Exception):
    """A verb has failed. `kind` is `refused`, `host-key` (session_verbs.submit) or as in broker.volumes.errors."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The user of a request, and the paths and programs that root set at start."""

    user: pwd.struct_passwd
    storage: str
    sbatch: str
    session_script: str
    """The file that is submitted for a session; empty for the joined script, which lies in the session's directory."""
    stream: int = -1
    """The descriptor of the pipe between the processes of `receive` and `send`; -1 for all other verbs."""

    @property
    def root(self) -> Path:
        if self.storage.startswith("~/"):
            return Path(self.user.pw_dir) / self.storage[2:]
        return Path(self.storage.replace("{user}", self.user.pw_name))

    def session(self, session_id: str) -> Path:
        """Return the directory of a session; VerbError `invalid` if that is no session id."""
        if not IDENTIFIER.fullmatch(session_id):
            raise VerbError("invalid", f"not a session id: {session_id!r:.80}")
        return self.root / "sessions" / session_id


def checked_user(name: object, minimum_uid: int) -> pwd.struct_passwd:
    """Return the account that a request names. VerbError `refused` for root and system accounts."""
    if not isinstance(name, str) or not USER_NAME.fullmatch(name):
        raise VerbError("invalid", f"not a user name: {name!r}")
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise VerbError("missing", f"there is no user {name}") from None
    if user.pw_uid < max(minimum_uid, 1) or user.pw_gid < 1:
        raise VerbError("refused", f"{name} is a system account")
    return user


def own_directory(path: Path, uid: int) -> None:
    """Make a directory with mode 0700, or accept one that the user owns and to which no other user can write.

    Other users lose their access to it: a program that makes a folder below a missing one leaves it readable.
    """
    try:
        path.mkdir(mode=0o700, parents=False)
    except FileExistsError:
        status = path.lstat()
        theirs = stat.S_ISDIR(status.st_mode) and status.st_uid == uid
        if theirs and status.st_mode & 0o055 and not status.st_mode & 0o022:  # a full quota refuses even no change
            path.chmod(0o700)
        check_own(path, uid)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        own_directory(path, uid)


def check_own(path: Path, uid: int) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise VerbError("missing", f"{path} does not exist") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or status.st_mode & 0o077:
        remedy = f": run `chmod 700 {path}`" if stat.S_ISDIR(status.st_mode) and status.st_uid == uid else ""
        raise VerbError("files", f"{path} must be a directory of the user's own with mode 0700{remedy}")
