"""The set of present connections of one worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

_Connection = TypeVar("_Connection")


class LiveConnections(Generic[_Connection]):
    """The present connections, by user."""

    def __init__(self) -> None:
        self._connections: set[_Connection] = set()
        self._of: dict[str, set[_Connection]] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[_Connection]:
        return iter(tuple(self._connections))

    def of(self, user: str) -> AbstractSet[_Connection]:
        """Those that are logged in as `user`."""
        return self._of.get(user, frozenset())

    def add(self, connection: _Connection) -> None:
        self._connections.add(connection)
        self._empty.clear()

    def log_in(self, connection: _Connection, user: str) -> None:
        self._of.setdefault(user, set()).add(connection)

    def remove(self, connection: _Connection, user: str | None) -> None:
        """`user` is who was logged in on it."""
        self._connections.discard(connection)
        if user is not None and connection in self._of.get(user, ()):
            self._of[user].remove(connection)
            if not self._of[user]:
                del self._of[user]
        if not self._connections:
            self._empty.set()

    async def wait_empty(self) -> None:
        await self._empty.wait()
