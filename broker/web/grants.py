"""Grants: which cookie opens which service, until when. They outlive a restart of berth-web, not of the node."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Self

from pydantic import TypeAdapter, ValidationError

from broker.errors import TooManyError
from broker.schema.base import Strict
from broker.schema.web import VisitAnswer
from broker.service.lasting_states import LastingStates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from broker.schema.web import EndedVisits

MAX_FILE_BYTES = 64 * 2**20
MAX_GRANTS = 10_000
"""Some 5 MB in the file; HAProxy has a server for each that is in use, and starts with so many."""
MAX_GRANTS_PER_USER = 200
"""As many as the controller has visits of a user."""

log = logging.getLogger(__name__)


class Grant(Strict):
    """The permission of one browser to use one service."""

    key: str
    """As in HAProxy's map: the SHA-256 of the cookie in hexadecimal, `@`, and the host."""
    visit: VisitAnswer

    @property
    def service(self) -> tuple[str, str]:
        """The id of the session, and the name of the service."""
        return self.visit.session_id, self.visit.service


class GrantStore:
    """All grants, by their keys. An async context manager, which saves each change soon, and the last one at its end.

    After a restart, the controller says which visits of the file are still valid.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._grants = {grant.key: grant for grant in _load(path)}
        self.confirmed = asyncio.Event()
        """Set when the controller has said which grants of an earlier run are valid."""
        self._changed = asyncio.Event()
        self._is_closing = False
        self._saving: asyncio.Task[None] | None = None
        self._states = LastingStates(log)

    async def __aenter__(self) -> Self:
        self._saving = asyncio.create_task(self._save_changes())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._saving is not None
        self._is_closing = True
        self._changed.set()
        await self._saving

    def __iter__(self) -> Iterator[Grant]:
        return iter(list(self._grants.values()))

    def __len__(self) -> int:
        return len(self._grants)

    def get(self, key: str) -> Grant | None:
        """Return the grant with this key, if it is valid."""
        grant = self._grants.get(key)
        return grant if grant is not None and grant.visit.expires_at > time.time() else None

    def add(self, grant: Grant) -> None:
        """Add a grant. TooManyError if there are too many of its user or in all."""
        if sum(each.visit.user == grant.visit.user for each in self) >= MAX_GRANTS_PER_USER:
            raise TooManyError(
                f"you have {MAX_GRANTS_PER_USER} services open in browsers, as many as are allowed",
                hint="log other browsers out: `berth browsers --logout ID`",
            )
        if len(self._grants) >= MAX_GRANTS:
            raise TooManyError("too many services are open in browsers", hint="tell the site's administrators")
        self._grants[grant.key] = grant
        self._changed.set()

    def remove(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            self._grants.pop(grant.key, None)
        self._changed.set()

    def of_service(self, service: tuple[str, str]) -> list[Grant]:
        return [grant for grant in self if grant.service == service]

    def find_expired(self, now: float) -> list[Grant]:
        """Return the grants that have ended at the time `now`, in seconds since the epoch."""
        return [grant for grant in self if grant.visit.expires_at <= now]

    def find_ended(self, ended: EndedVisits) -> list[Grant]:
        """Return the grants of these delegations and visits."""
        delegations, visits = set(ended.delegation_ids), set(ended.visit_ids)
        return [grant for grant in self if grant.visit.delegation_id in delegations or grant.visit.id in visits]

    async def _save_changes(self) -> None:
        """Save in a thread, so that a slow disk delays nothing else; changes meanwhile are saved together."""
        while not self._is_closing or self._changed.is_set():
            await self._changed.wait()
            self._changed.clear()
            try:
                await asyncio.to_thread(_save, self._path, list(self))
            except (OSError, RuntimeError) as error:  # RuntimeError: there is no thread to be had
                self._states.report("save", logging.ERROR, f"grants not saved error={error}")
            else:
                self._states.end("save")


_FILE = TypeAdapter(list[Grant])


def _save(path: Path, grants: list[Grant]) -> None:
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(_FILE.dump_json(grants))
    fresh.replace(path)


def _load(path: Path) -> list[Grant]:
    """Return the grants of the file. Without a valid file there are none, and browsers open their services again."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) <= MAX_FILE_BYTES:
            return _FILE.validate_json(data)
        log.warning("grants not restored error=the file is longer than %d bytes", MAX_FILE_BYTES)
    except FileNotFoundError:
        pass
    except (OSError, ValidationError) as error:
        log.warning("grants not restored error=%s", type(error).__name__)
    return []
