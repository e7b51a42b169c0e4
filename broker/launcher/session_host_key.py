"""The host key of a session, in its directory. The functions run as the user; VerbError or OSError if one fails.

Standard library only: this is loaded by the root process, though never run by it as root.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from broker.launcher.read_verbs import text_if_readable
from broker.launcher.request import VerbError
from broker.names import new_id
from broker.ssh import host_key as hostkey
from broker.volumes.files import replace_file
from broker.volumes.program import run_program

if TYPE_CHECKING:
    from pathlib import Path

HOST_KEY = "run/ssh_host_ed25519_key"
KEY_BYTES = 16 * 1024
"""Bytes of one key's file; ssh-keygen writes about 400."""
KEYGEN_TIMEOUT_S = 30.0


def ensure_host_key(session: Path) -> str:
    """Return the session's public host key, one line.

    The private key counts, since sshd proves that it has it: a missing or different `.pub` is written again. Without a
    private key that sshd can use, a new pair is made and the old files are renamed. After an interruption the next
    call finds a complete private key or makes one.
    """
    key = session / HOST_KEY
    public = _public_half(key)
    if public is None:
        _put_aside(key)
        public = _make_key(key, _comment(session))
    return _write_public_key(session, public)


def renew_host_key(session: Path) -> str:
    """Replace the session's host key by a new one; return the public key, one line. After a failure the old one stays.

    A file that sshd cannot use is renamed, as by `ensure_host_key`.
    """
    key = session / HOST_KEY
    if _public_half(key) is None:
        return ensure_host_key(session)
    return _write_public_key(session, _make_key(key, _comment(session)))


def _comment(session: Path) -> str:
    return f"berth session {session.name}"


def _make_key(key: Path, comment: str) -> bytes:
    """Put a new private key at the path, whole or not at all; return its public half."""
    fresh = key.with_name(f".{key.name}.{new_id()}")
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(fresh)]
    environment = {"PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}
    done = run_program(argv, timeout=KEYGEN_TIMEOUT_S, env=environment)
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()[-500:]
        raise VerbError("files", words or f"ssh-keygen exited with status {done.returncode}")
    public = _public_half(fresh)
    assert public is not None
    fresh.with_name(fresh.name + ".pub").unlink()
    fresh.rename(key)
    return public


def _write_public_key(session: Path, public: bytes) -> str:
    key = session / HOST_KEY
    line, path = hostkey.public_key_line(public, _comment(session)), key.with_name(key.name + ".pub")
    if text_if_readable(path, KEY_BYTES) != line + "\n":
        if path.is_dir():
            _put_aside(path)
        replace_file(path, (line + "\n").encode())
    return line


def _public_half(key: Path) -> bytes | None:
    """Return the public half of a private key that sshd can use; None for any other content."""
    try:
        public = hostkey.public_key_of(text_if_readable(key, KEY_BYTES))
    except ValueError:
        return None
    if stat.S_IMODE(key.lstat().st_mode) & 0o077:
        key.chmod(0o600)  # sshd refuses a key that others can read
    return public


def _put_aside(path: Path) -> None:
    """Rename a file that is in the way, so that its content is kept."""
    with contextlib.suppress(FileNotFoundError):
        path.rename(path.with_name(path.name + ".unusable"))


def check_certificate(session: Path, certificate: str) -> None:
    """VerbError `host-key` if the certificate is for another key than the session's: clients would refuse it."""
    certified = hostkey.certified_key(certificate)
    if certified is None:
        return
    if hostkey.public_key_line(certified, "").split()[1] != ensure_host_key(session).split()[1]:
        raise VerbError("host-key", "the session's host key is not the one that its certificate is for")
