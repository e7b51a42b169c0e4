"""Grants: which cookie opens which service, until when. They outlive a restart of berth-web, not of the node."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from broker.schema.base import Strict
from broker.schema.web import VisitAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from broker.schema.web import EndedVisits

MAX_FILE_BYTES = 64 * 2**20

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
    """All grants, by their keys. Each change is in the file before the call returns, unless the file cannot be written.

    After a restart, the controller says which visits of the file are still valid.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._grants = {grant.key: grant for grant in _load(path)}

    def __len__(self) -> int:
        return len(self._grants)

    def __iter__(self) -> Iterator[Grant]:
        return iter(list(self._grants.values()))

    def get(self, key: str) -> Grant | None:
        return self._grants.get(key)

    def add(self, grant: Grant) -> None:
        self._grants[grant.key] = grant
        self._save()

    def remove(self, grants: Iterable[Grant]) -> None:
        for grant in grants:
            self._grants.pop(grant.key, None)
        self._save()

    def of_service(self, service: tuple[str, str]) -> list[Grant]:
        return [grant for grant in self if grant.service == service]

    def expired(self, now: float) -> list[Grant]:
        """Return the grants that have ended at the time `now`, in seconds since the epoch."""
        return [grant for grant in self if grant.visit.expires_at <= now]

    def ended(self, ended: EndedVisits) -> list[Grant]:
        """Return the grants of these delegations and visits; all if none are named."""
        delegations, visits = set(ended.delegation_ids), set(ended.visit_ids)
        return [
            grant
            for grant in self
            if not (delegations or visits) or grant.visit.delegation_id in delegations or grant.visit.id in visits
        ]

    def _save(self) -> None:
        data = _FILE.dump_json(list(self._grants.values()))
        fresh = self._path.with_suffix(".new")
        try:
            fresh.touch(mode=0o600)
            fresh.write_bytes(data)
            fresh.replace(self._path)
        except OSError as error:
            log.error("grants not saved error=%s", error)


_FILE = TypeAdapter(list[Grant])


def _load(path: Path) -> list[Grant]:
    """Return the grants of the file. Without a valid file there are none, and browsers open their services again."""
    try:
        with path.open("rb") as file:
            return _FILE.validate_json(file.read(MAX_FILE_BYTES))
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as error:
        log.warning("grants not restored error=%s", type(error).__name__)
        return []
