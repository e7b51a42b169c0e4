"""Transactions on the registry's database, each of which checks that this process may use it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session as DBSession

from broker.errors import BerthError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy


class RegistryError(BerthError):
    """The database cannot be used. The message names the database and the reason."""

    reason = "registry"
    status = 503


class Lock(Protocol):
    """The lock on the database, which one controller holds."""

    def check(self) -> None:
        """Return if this process may use the database; RegistryError while it may have lost the lock."""

    def guard(self, engine: sqlalchemy.Engine) -> None:
        """Let `engine` connect only to the server that has the lock."""


class Transactions:
    """An open database."""

    def __init__(self, engine: sqlalchemy.Engine, lock: Lock | None = None) -> None:
        self._engine = engine
        self._lock = lock

    def close(self) -> None:
        self._engine.dispose()

    def all_rows(self, query: sqlalchemy.Select[Any]) -> list[Any]:
        with self.transaction() as db:
            return list(db.execute(query).scalars())

    @contextlib.contextmanager
    def transaction(self) -> Iterator[DBSession]:
        """A database session that commits on the way out, rolls back on an exception, and leaves its rows readable."""
        try:
            with DBSession(self._engine, expire_on_commit=False) as db, db.begin():
                self._check_lock()
                yield db
                self._check_lock()
        except PoolTimeoutError as error:
            raise RegistryError(
                "the registry cannot be used now: all connections to its database are in use",
                hint="try again; if it stays so, look for slow queries or locks in the database",
            ) from error
        except OperationalError as error:
            raise RegistryError(
                f"the registry cannot be used now: {error.orig}", hint="try again; the controller's log has the cause"
            ) from error

    def _check_lock(self) -> None:
        """Return if this process may use the database; RegistryError while it may have lost the lock on it."""
        if self._lock is not None:
            self._lock.check()


def column(attribute: Any) -> Any:  # noqa: ANN401 - SQLModel declares columns as their values' types
    return attribute
