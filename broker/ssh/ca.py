"""The keys of one certificate authority: the one that signs, the next one, and former ones still trusted.

Three files hold them: `<path>` is the private key that signs; `<path>.next` one that is announced, so that those who
verify can learn it before it signs; `<path>.former` has a line for each that signed before, its public half alone, with
the time of its last signature at the latest.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from broker.errors import ConflictError, NotFoundError
from broker.format import clock, duration
from broker.ssh import private_key
from broker.ssh.keys import PublicKey

if TYPE_CHECKING:
    from pathlib import Path

    import asyncssh

log = logging.getLogger(__name__)


class Standing(StrEnum):
    """What a key of an authority is good for."""

    ANNOUNCED = "announced"  # believed, and signs from the next rotation on
    SIGNING = "signing"
    FORMER = "former"  # believed for what it has signed


@dataclass(frozen=True, slots=True)
class CaKey:
    """The public half of one, and since when it stands as it does (seconds since the epoch)."""

    public: PublicKey
    standing: Standing
    since: float


class CaKeys:
    """One process has them; it is the only one that changes the files."""

    def __init__(self, path: Path, *, comment: str) -> None:
        """The key that signs is made at first use; RefusedError as `keyfile.load_or_create`."""
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
        """All that are to be believed, the one that signs first."""
        return list(self._all)

    def announce(self) -> CaKey:
        """Make the next key; ConflictError if there is one."""
        if self._next.exists():
            raise ConflictError("the next key is announced already", hint="`berth ca list` shows since when")
        private_key.load_or_create(self._next, comment=self._comment)
        self._load()
        return self._of(Standing.ANNOUNCED)

    def switch(self, *, overlap: float) -> CaKey:
        """Sign with the next key from now on. ConflictError unless it was announced `overlap` seconds ago; for an
        overlap of 0 it is made now if there is none.
        """
        if overlap == 0 and not self._next.exists():
            self.announce()
        announced = self._of(Standing.ANNOUNCED)
        if (left := announced.since + overlap - time.time()) > 0:
            raise ConflictError(
                f"the next key was announced {clock(announced.since)}, and may sign in {duration(left)}",
                hint="who has not learnt it by then refuses every session; --now does not wait",
            )
        now = time.time()
        # The old one is written down first: should this end in between, it is still the one that signs.
        last = CaKey(self._of(Standing.SIGNING).public, Standing.FORMER, now)
        self._write_former([*self._former_but(last.public), last])
        self._next.replace(self._path)
        os.utime(self._path, (now, now))
        self._load()
        return self._of(Standing.SIGNING)

    def retire(self, fingerprint: str, *, in_use: float) -> CaKey:
        """Believe a key no more. ConflictError for the one that signs, and for one that has signed within the last
        `in_use` seconds, for which its certificates may be valid.
        """
        key = next((each for each in self._all if each.public.fingerprint == fingerprint), None)
        if key is None:
            raise NotFoundError(f"this authority has no key {fingerprint}", hint="`berth ca list` shows them")
        if key.standing is Standing.SIGNING:
            raise ConflictError("this is the key that signs", hint="`berth ca rotate` puts another in its place")
        if key.standing is Standing.ANNOUNCED:
            self._next.unlink()
        elif (left := key.since + in_use - time.time()) > 0:
            raise ConflictError(
                f"certificates that it has signed may be valid for {duration(left)}",
                hint="wait until nobody uses one any more, or --now: they are refused from then on",
            )
        else:
            self._write_former(self._former_but(key.public))
        self._load()
        return key

    def _load(self) -> None:
        self._signing = private_key.load_or_create(self._path, comment=self._comment)
        signing = CaKey(_public(self._signing), Standing.SIGNING, self._path.stat().st_mtime)
        announced = []
        if self._next.exists():
            key = _public(private_key.load_or_create(self._next, comment=self._comment))
            announced = [CaKey(key, Standing.ANNOUNCED, self._next.stat().st_mtime)]
        self._all = [signing, *announced, *self._former_but(signing.public)]

    def _of(self, standing: Standing) -> CaKey:
        for each in self._all:
            if each.standing is standing:
                return each
        raise ConflictError("no key is announced", hint="`berth ca rotate` announces one")

    def _former_but(self, key: PublicKey) -> list[CaKey]:
        return [each for each in self._read_former() if each.public.blob != key.blob]

    def _read_former(self) -> list[CaKey]:
        if not self._former.exists():
            return []
        lines = [line.split(" ", 1) for line in self._former.read_text(encoding="utf-8").splitlines()]
        return [CaKey(PublicKey.parse(public), Standing.FORMER, float(since)) for since, public in lines]

    def _write_former(self, keys: list[CaKey]) -> None:
        draft = self._former.with_name(f".{self._former.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            file.writelines(f"{key.since!r} {key.public.line}\n" for key in keys)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._former)


def _public(key: asyncssh.SSHKey) -> PublicKey:
    return PublicKey.parse(key.export_public_key().decode())
