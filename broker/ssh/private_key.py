"""Private key files that are created at first use: the CA's keys, and the gateway's host key."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING

import asyncssh

from broker.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def load_or_create(path: Path, comment: str) -> asyncssh.SSHKey:
    """Load the ed25519 key at `path`; create it and its directory if they are missing.

    On return, the key is a regular file; it and its directory belong to this account, and no other account may read
    them. RefusedError with a hint otherwise. Two processes that start at once get the same key: link(2) gives the new
    file its name and never replaces a file, so the second process loads the first one's key.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_private(path.parent, stat.S_ISDIR)
    if not path.exists() and not path.is_symlink():
        _create(path, comment)
    _require_private(path, stat.S_ISREG)
    try:
        return asyncssh.read_private_key(path)
    except (OSError, asyncssh.KeyImportError) as error:
        raise RefusedError(
            f"{path} is not a private key: {error}",
            hint="restore it from a backup. Without one, move it away: Berth then creates a new key, and every client "
            "must run `berth ssh-config --install`",
        ) from error


def _create(path: Path, comment: str) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.export_private_key())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path, follow_symlinks=False)
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _require_private(path: Path, is_right_kind: Callable[[int], bool]) -> None:
    status = path.lstat()
    if not is_right_kind(status.st_mode):
        raise RefusedError(f"{path} is a link or of the wrong type", hint="replace it by the real file or directory")
    if status.st_uid != os.geteuid():
        raise RefusedError(
            f"{path} belongs to another account (uid {status.st_uid})", hint=f"chown it to {os.geteuid()}"
        )
    if status.st_mode & 0o077:
        right = "700" if stat.S_ISDIR(status.st_mode) else "600"
        raise RefusedError(f"other users may read or write {path}", hint=f"chmod {right} {path}")
