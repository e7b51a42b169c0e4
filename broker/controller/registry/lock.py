"""The lock on the registry: one controller holds it at a time. Its machine and its state directory do not matter.

Two controllers on one registry would submit jobs twice, sign with two authorities, and set aside data that the other
has just restored. So a controller takes the lock before it migrates or reads anything, and acts only while it knows
that it has the lock (ADR 105).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy
from sqlalchemy import event as sqlalchemy_event

from broker.controller.registry.database import CLIENT_SETTINGS, parse_url
from broker.controller.registry.transactions import RegistryError
from broker.errors import BerthError, ConflictError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import psycopg

log = logging.getLogger(__name__)

LOCK_CLASS = 0x42525448
"""`BRTH`, the first half of the advisory lock's key; the second is the checksum of the schema's name. PostgreSQL keeps
the locks of each database apart by itself."""
CONFIRM_EVERY_S = 2.0
"""Seconds between queries that confirm the lock. The end of the connection is noticed at once."""
ANSWER_WITHIN_S = 10.0
"""Seconds in which PostgreSQL must answer such a query, or accept a connection."""
VALID_S = 15.0
"""Seconds after the last confirmation in which the controller may act. A server keeps the lock of a silent machine for
longer (`SERVER_SETTINGS`), so this holder stops to act before another one can get the lock."""
TAKE_WITHIN_S = 2.0
"""Seconds in which the server must notice that a killed holder has disconnected."""
REGAIN_WITHIN_S = 30.0
"""Seconds in which a controller must take the lock again after it has lost its connection, as when PostgreSQL was
restarted. After that the controller ends, and systemd restarts it until the server is there."""
RETRY_S = 0.1
"""Seconds between two attempts to take the lock."""
SERVER_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "30000",
    "idle_session_timeout": "0",
}
"""PostgreSQL's settings of each of the controller's connections: after 30 s without a sign of life from its machine the
server ends the connection, and with it the lock and open transactions. By default that takes two hours. The user
timeout (ms) holds while something that was sent is not acknowledged, when no keepalives are sent (tcp(7))."""
_NEVER = float("-inf")

_SCHEMA = """
SELECT coalesce(
    (SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = to_regclass('session')),
    current_schema(), '')
"""
"""The schema of the tables, existing or new: roles with different search paths may share them."""
_HOLDER = """
SELECT l.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), ''), a.backend_start
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = %s::bigint::oid
    AND l.objid = %s::bigint::oid AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_SET = "SELECT set_config(name, %s::jsonb ->> name, false) FROM pg_settings WHERE %s::jsonb ? name"
"""Only those that this version of PostgreSQL has."""


class RegistryLock:
    """A held lock. `lost` is set when the lock is lost for good; `why` is the reason."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.why = ""

    def check(self) -> None:
        """Return if this controller may act; RegistryError while its lock is not confirmed."""

    def guard(self, engine: sqlalchemy.Engine) -> None:
        """Let `engine` connect only to the server that has the lock."""


@contextlib.asynccontextmanager
async def hold_registry(url: str) -> AsyncIterator[RegistryLock]:
    """Hold the lock of the registry behind an SQLAlchemy URL.

    ConflictError names another controller that has it. RegistryError: the database cannot be reached.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        with _file_lock(parsed.database or ""):
            yield RegistryLock()
        return
    async with contextlib.aclosing(PostgresLock(parsed)) as lock:
        try:
            await lock.take(TAKE_WITHIN_S)
        except _failures() as error:
            raise RegistryError(
                f"the registry {parsed.render_as_string()} cannot be opened: {_one_line(error)}",
                hint="look at PostgreSQL's log, and at registry.url",
            ) from error
        watching = asyncio.create_task(lock.watch())
        try:
            yield lock
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


class _Holder(NamedTuple):
    """A database connection that has the lock, as the server shows it."""

    pid: int
    application: str
    address: str
    began_at: Any
    """PostgreSQL's time, which tells apart two connections that have had the same pid."""

    @property
    def description(self) -> str:
        process = self.application.removeprefix(_APPLICATION)
        origin = f"from {self.address}" if self.address else "on the server's own machine"
        known = f"process {process}, " if process != self.application else ""
        return f"{known}PostgreSQL's process {self.pid}, connected {origin}"


_APPLICATION = "berth-controller "


class PostgresLock(RegistryLock):
    """A session-level advisory lock, on a connection of its own for the controller's whole life."""

    def __init__(self, url: sqlalchemy.URL) -> None:
        super().__init__()
        self._url = url
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._key = (LOCK_CLASS, 0)
        self._own: _Holder | None = None
        """The connection that has, or had, the lock for this controller."""
        self._confirmed_at = _NEVER
        """Time of the last query that confirmed the lock."""

    def check(self) -> None:
        if _now() - self._confirmed_at > VALID_S:
            raise RegistryError(
                "this controller may have lost the lock on its registry, and waits until it has the lock again",
                hint="try again in a moment; the controller's log has the cause",
            )

    def guard(self, engine: sqlalchemy.Engine) -> None:
        sqlalchemy_event.listen(engine, "connect", self._accept)

    def _accept(self, connection: psycopg.Connection[Any], _record: object) -> None:
        """Refuse a server that does not show this controller's lock: it has replaced the first server."""
        own = self._own
        with connection.cursor() as cursor:
            cursor.execute(_SET, [json.dumps(SERVER_SETTINGS)] * 2)
            cursor.execute(_HOLDER, self._key)
            pids = [row[0] for row in cursor.fetchall()]
        connection.commit()
        if own is None or own.pid not in pids:
            self.check()
            raise RegistryError(
                "the registry's server does not show this controller's lock", hint="try again in a moment"
            )

    async def take(self, patience: float) -> None:
        """Connect and take the lock; ConflictError if another controller still has it after so many seconds."""
        await self.aclose()
        deadline = _now() + patience
        async with asyncio.timeout(ANSWER_WITHIN_S + patience):
            self._connection = await _connect(self._url)
            await self._check_direct()
            await self._ask(_SET, [json.dumps(SERVER_SETTINGS)] * 2)
            self._key = LOCK_CLASS, zlib.crc32((await self._ask(_SCHEMA))[0][0].encode())
            while True:
                asked_at = _now()
                signed = self._key[1] - (1 << 32 if self._key[1] >= 1 << 31 else 0)
                if (await self._ask("SELECT pg_try_advisory_lock(%s::int, %s::int)", (LOCK_CLASS, signed)))[0][0]:
                    break
                await self._make_room(patient=_now() < deadline)
                await asyncio.sleep(RETRY_S)
            self._own = (await self._holders())[0]
        self._confirmed_at = asked_at

    async def _make_room(self, *, patient: bool) -> None:
        """End this controller's own last connection if it remains; ConflictError names any other holder."""
        for holder in await self._holders():
            if holder == self._own:
                await self._ask("SELECT pg_terminate_backend(%s)", (holder.pid,))
            elif not patient:
                raise ConflictError(
                    f"another controller uses the registry {self._url.render_as_string()}: {holder.description}",
                    hint="stop that one, or give this one a registry of its own (registry.url)",
                )

    async def watch(self) -> None:
        """Confirm the lock repeatedly, and take it again when it is lost; set `lost` when that fails."""
        try:
            while True:
                try:
                    await self._confirm()
                except _failures() as error:
                    self._confirmed_at, lost_at = _NEVER, _now()
                    log.warning("the registry's lock may be lost: %s; taking it again", _one_line(error))
                await self._regain(lost_at)
                log.info("the registry's lock is held again after %.1f s", _now() - lost_at)
        except BerthError as error:
            self.why = error.message
        except Exception:
            log.exception("the registry's lock could not be watched")
            self.why = "a fault of Berth"
        self._confirmed_at = _NEVER
        self.lost.set()

    async def _confirm(self) -> None:
        """Query every few seconds; raise when the connection or the lock is lost."""
        while True:
            assert self._connection is not None
            async for _ in self._connection.notifies(timeout=CONFIRM_EVERY_S):
                pass  # there are none: this waits for the connection's end
            asked_at = _now()
            async with asyncio.timeout(ANSWER_WITHIN_S):
                holders = await self._holders()
            if self._own not in holders:
                raise RegistryError("the server does not show the lock; is a pooling proxy in between?")
            self._confirmed_at = asked_at

    async def _regain(self, lost_at: float) -> None:
        while True:
            try:
                await self.take(TAKE_WITHIN_S)
            except ConflictError:
                raise
            except _failures() as error:
                if _now() - lost_at > REGAIN_WITHIN_S:
                    raise RegistryError(
                        f"the registry has not been reached for {REGAIN_WITHIN_S:g} s: {_one_line(error)}"
                    ) from error
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def aclose(self) -> None:
        """Release the lock, if it is held."""
        connection, self._connection = self._connection, None
        self._confirmed_at = _NEVER
        if connection is not None:
            await connection.close()

    async def _check_direct(self) -> None:
        """Refuse a pooling proxy, which answers with its own process id.

        The lock would belong to the proxy's connection. The proxy may give that connection to another client, and may
        not notice its end.
        """
        assert self._connection is not None
        if (await self._ask("SELECT pg_backend_pid()"))[0][0] != self._connection.info.backend_pid:
            raise InvalidInputError(
                f"registry.url: {self._url.render_as_string()} is a pooling proxy such as PgBouncer, "
                "which breaks locks",
                hint="connect to PostgreSQL itself: one controller needs no pool",
            )

    async def _holders(self) -> list[_Holder]:
        return [_Holder(*row) for row in await self._ask(_HOLDER, self._key)]

    async def _ask(self, query: str, values: Any = ()) -> list[Any]:  # noqa: ANN401 - as the driver takes them
        assert self._connection is not None
        return await (await self._connection.execute(query, values)).fetchall()


async def _connect(url: sqlalchemy.URL) -> psycopg.AsyncConnection[Any]:
    import psycopg  # noqa: PLC0415 - an optional dependency

    _, values = url.get_dialect()().create_connect_args(url)
    name = f"{_APPLICATION}{os.getpid()} on {os.uname().nodename}"  # PostgreSQL keeps its first 63 bytes
    settings: dict[str, Any] = {**CLIENT_SETTINGS, **values, "application_name": name}
    return await psycopg.AsyncConnection.connect(autocommit=True, **settings)


def _failures() -> tuple[type[Exception], ...]:
    """Return the types of errors of a connection or a query."""
    import psycopg  # noqa: PLC0415 - an optional dependency

    return psycopg.Error, OSError, TimeoutError, RegistryError


@contextlib.contextmanager
def _file_lock(name: str) -> Iterator[None]:
    """Hold flock(2) on a file beside SQLite's own, which has SQLite's locks. All links to a database use one lock."""
    database = Path(name).resolve()
    path = database.with_name(f"{database.name}.lock")
    try:
        lock = path.open("a+")
    except OSError as error:
        raise RegistryError(
            f"the registry {database} cannot be locked: {error.strerror}", hint=f"make {path} writable"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ConflictError(
                f"another controller uses the registry {database}: {lock.read(200).strip() or 'one that starts'}",
                hint="stop that one, or give this one a registry of its own (registry.url)",
            ) from None
        except OSError as error:
            raise InvalidInputError(
                f"the file system of {database} has no locks: {error.strerror}",
                hint="set registry.url to a file on another one",
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}")
        lock.flush()
        yield


def _now() -> float:
    """Return seconds of a clock that runs while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _one_line(error: Exception) -> str:
    text = error.message if isinstance(error, BerthError) else str(error)
    return " ".join(text.split()) or type(error).__name__
