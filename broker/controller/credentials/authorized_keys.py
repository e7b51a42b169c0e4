"""Public keys that open a user's sessions: from `berth key add` and the user's authorized_keys."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.credential_models import Key
from broker.errors import RefusedError
from broker.schema.login import KeyView
from broker.service.lasting_states import LastingStates
from broker.single_flight import SingleFlight
from broker.ssh import keys

if TYPE_CHECKING:
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry

log = logging.getLogger(__name__)

CACHE_TTL_S = 5.0
"""Time for which the content of an authorized_keys file is reused: a burst of log-ins reads it once. A key that was
removed from the file works until then; `berth key remove` takes effect at once."""
MAX_USERS = 4096
"""Users in the cache. It also has names without an account, so that guessing names costs no forks."""


MAX_ADDED = keys.MAX_FILE_KEYS
"""Keys that one user may add: all of them must fit into one request to the launcher."""


_NO_ANSWER = {"crashed", "timed-out", "gone"}
"""Kinds of LauncherError that say nothing about the file."""


class AuthorizedKeys:
    """A short-lived cache of users' keys, which the launcher reads as these users."""

    def __init__(self, registry: AsyncRegistry, launcher: LauncherClient, *, enough: bool = True) -> None:
        """`enough`: whether a key opens a session without a certificate. If not, no key can be added."""
        self._enough = enough
        self._registry = registry
        self._launcher = launcher
        self._files: dict[str, tuple[float, list[keys.PublicKey]]] = {}
        self._unknown: set[str] = set()
        """Those of `_files` that do not exist."""
        self._lasting = LastingStates(log)
        self._reading = SingleFlight[str, list[keys.PublicKey]]()

    async def lines(self, user: str) -> list[str]:
        """Return one authorized_keys line for each key, without options; none for a user that does not exist.

        LauncherError if the user's own file cannot be read, as on a dead file server, and is not in the cache.
        """
        found = {key.blob: key.line for key in await self._own_file(user)}
        for row in await self._registry.keys_of(user):
            key = keys.PublicKey.parse(row.public_key)
            found.setdefault(key.blob, key.line)
        return list(found.values())

    async def knows(self, user: str) -> bool:
        """Whether the user exists; raises as `lines`."""
        await self._own_file(user)
        return user not in self._unknown

    async def views(self, user: str) -> list[KeyView]:
        """Return the keys for the user to read, each with its source."""
        rows = await self._registry.keys_of(user)
        added = [_key_view(row) for row in rows]
        known = {view.fingerprint for view in added}
        return added + [
            KeyView(
                fingerprint=key.fingerprint,
                algorithm=key.algorithm,
                comment=key.comment,
                source="authorized_keys",
            )
            for key in await self._own_file(user)
            if key.fingerprint not in known
        ]

    async def add(self, user: str, line: str) -> KeyView:
        key = keys.PublicKey.parse(line)
        if not self._enough:
            raise RefusedError("this site accepts certificates, not keys", hint="`berth login` gives you a certificate")
        if len(await self._registry.keys_of(user)) >= MAX_ADDED:
            raise RefusedError(
                f"you have added {MAX_ADDED} keys already",
                hint="`berth key list` shows them, `berth key remove FINGERPRINT` removes one",
            )
        row = Key(
            owner=user,
            fingerprint=key.fingerprint,
            public_key=key.line,
            comment=key.comment,
            added_at=clock.now(),
        )
        return _key_view(await self._registry.add_key(row))

    async def remove(self, user: str, fingerprint: str) -> KeyView:
        return _key_view(await self._registry.remove_key(user, fingerprint))

    async def _own_file(self, user: str) -> list[keys.PublicKey]:
        read_at, known = self._files.get(user, (-math.inf, None))
        if known is not None and clock.monotonic() - read_at < CACHE_TTL_S:
            return known
        return await asyncio.shield(self._reading.join(user, lambda: self._read(user, known)))

    async def _read(self, user: str, known: list[keys.PublicKey] | None) -> list[keys.PublicKey]:
        missing = False
        try:
            found = keys.plain_keys(await self._launcher.keys(user))
        except LauncherError as error:
            missing = error.kind == "missing"
            if not missing:
                text = f"authorized_keys not read user={user} error={error.message}"
                self._lasting.report(user, logging.WARNING, text)
            if error.kind in _NO_ANSWER and known is None:
                raise  # a failed read does not prove that the file is empty
            found = known or [] if error.kind in {*_NO_ANSWER, "files"} else []
        else:
            self._lasting.end(user)
        if len(self._files) >= MAX_USERS:
            self._files.clear()
            self._unknown.clear()
        self._files[user] = (clock.monotonic(), found)
        (self._unknown.add if missing else self._unknown.discard)(user)
        return found


def _key_view(row: Key) -> KeyView:
    algorithm = row.public_key.split(" ", 1)[0]
    return KeyView(
        fingerprint=row.fingerprint,
        algorithm=algorithm,
        comment=row.comment,
        source="berth",
        added_at=row.added_at,
    )
