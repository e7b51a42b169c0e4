"""The keys of one certificate authority: the signing key, the next key, and former keys that are still trusted.

The keys are in three files. `<path>` is the private key that signs. `<path>.next` is the private key that is announced:
clients can learn it before it signs. `<path>.former` has one line for each former key: the time at which it stopped
signing, and its public key.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from broker.errors import ConflictError, NotFoundError
from broker.format import format_duration, format_time
from broker.ssh import private_key
from broker.ssh.keys import PublicKey

if TYPE_CHECKING:
    from pathlib import Path

    import asyncssh

log = logging.getLogger(__name__)


class CaKeyStatus(StrEnum):
    """The role of an authority's key."""

    ANNOUNCED = "announced"  # trusted; signs after the next rotation
    SIGNING = "signing"
    FORMER = "former"  # trusted for the certificates that it has signed


@dataclass(frozen=True, slots=True)
class CaKey:
    """A public key, its role, and the time when it got that role (seconds since the epoch)."""

    public: PublicKey
    standing: CaKeyStatus
    since: float


class CaKeys:
    """The keys of an authority. Only one process may have this object: it alone changes the files."""

    def __init__(self, path: Path, *, comment: str) -> None:
        """Load the keys; create the signing key at first use. RefusedError as from `private_key.load_or_create`."""
        self._path = path
        self._next = path.with_name(f"{path.name}.next")
        self._former = path.with_name(f"{path.name}.former")
        self._comment = comment
        self._load()

    @property
    def signing(self) -> asyncssh.SSHKey:
        return self._signing

    @property
    def all(self) -> list[CaKey]:
        """All trusted keys, the signing key first."""
        return list(self._all)

    def announce(self) -> CaKey:
        """Create the next key; ConflictError if there is one."""
        if self._next.exists():
            raise ConflictError("the next key is already announced", hint="`berth ca list` shows since when")
        private_key.load_or_create(self._next, comment=self._comment)
        self._load()
        return self._of(CaKeyStatus.ANNOUNCED)

    def switch(self, *, overlap: float) -> CaKey:
        """Make the announced key the signing key. ConflictError unless it was announced `overlap` seconds ago.

        With an overlap of 0, create the key if none is announced.
        """
        if overlap == 0 and not self._next.exists():
            self.announce()
        announced = self._of(CaKeyStatus.ANNOUNCED)
        if (left := announced.since + overlap - time.time()) > 0:
            raise ConflictError(
                f"the next key was announced at {format_time(announced.since)} and may sign in {format_duration(left)}",
                hint="--now rotates at once: clients without the new key then refuse every session",
            )
        now = time.time()
        # The old key is recorded first. If this process ends in between, the old key still signs.
        last = CaKey(self._of(CaKeyStatus.SIGNING).public, CaKeyStatus.FORMER, now)
        self._write_former([*self._former_but(last.public), last])
        self._next.replace(self._path)
        os.utime(self._path, (now, now))
        self._load()
        return self._of(CaKeyStatus.SIGNING)

    def retire(self, fingerprint: str, *, in_use: float) -> CaKey:
        """Remove a key from the trusted keys. ConflictError for the signing key, and for a key that signed within the
        last `in_use` seconds: its certificates may still be valid.
        """
        key = next((key for key in self._all if key.public.fingerprint == fingerprint), None)
        if key is None:
            raise NotFoundError(f"this authority has no key {fingerprint}", hint="`berth ca list` shows its keys")
        if key.standing is CaKeyStatus.SIGNING:
            raise ConflictError("this is the signing key", hint="`berth ca rotate KIND` replaces it")
        if key.standing is CaKeyStatus.ANNOUNCED:
            self._next.unlink()
        elif (left := key.since + in_use - time.time()) > 0:
            raise ConflictError(
                f"certificates that this key signed may be valid for another {format_duration(left)}",
                hint="wait until they have expired; with --now they are refused at once",
            )
        else:
            self._write_former(self._former_but(key.public))
        self._load()
        return key

    def _load(self) -> None:
        self._signing = private_key.load_or_create(self._path, comment=self._comment)
        signing = CaKey(_public(self._signing), CaKeyStatus.SIGNING, self._path.stat().st_mtime)
        announced = []
        if self._next.exists():
            key = _public(private_key.load_or_create(self._next, comment=self._comment))
            announced = [CaKey(key, CaKeyStatus.ANNOUNCED, self._next.stat().st_mtime)]
        self._all = [signing, *announced, *self._former_but(signing.public)]

    def _of(self, standing: CaKeyStatus) -> CaKey:
        for key in self._all:
            if key.standing is standing:
                return key
        raise ConflictError("no key is announced", hint="`berth ca rotate KIND` announces one")

    def _former_but(self, key: PublicKey) -> list[CaKey]:
        return [former for former in self._read_former() if former.public.blob != key.blob]

    def _read_former(self) -> list[CaKey]:
        if not self._former.exists():
            return []
        lines = [line.split(" ", 1) for line in self._former.read_text(encoding="utf-8").splitlines()]
        return [CaKey(PublicKey.parse(public), CaKeyStatus.FORMER, float(since)) for since, public in lines]

    def _write_former(self, keys: list[CaKey]) -> None:
        draft = self._former.with_name(f".{self._former.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            file.writelines(f"{key.since!r} {key.public.line}\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._former)


def _public(key: asyncssh.SSHKey) -> PublicKey:
    return PublicKey.parse(key.export_public_key().decode())
