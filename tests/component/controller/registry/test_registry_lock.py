"""One controller uses a registry at a time, and acts only while it knows that it is the one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy

from broker.controller.fence import FencedScheduler
from broker.controller.launcher_client.client import LauncherClient
from broker.controller.registry import lock as registry_lock
from broker.controller.registry.database import open_registry, parse_url
from broker.controller.registry.lock import LOCK_CLASS, PostgresLock, hold_registry
from broker.controller.registry.registry import EventEntry
from broker.controller.registry.transactions import RegistryError
from broker.errors import ConflictError, InvalidInputError
from broker.names import new_id
from tests.deadlines import DEADLINE_S
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler
from tests.postgresql import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.postgresql import PostgreSQL


@pytest.fixture
def server(postgresql: PostgreSQL) -> PostgreSQL:
    return postgresql


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    server: PostgreSQL = request.getfixturevalue("server")
    return server.url


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in a server
            await asyncio.sleep(0.01)


def may_act(lock: registry_lock.RegistryLock) -> bool:
    try:
        lock.check()
    except RegistryError:
        return False
    return True


def kill_lock(server: PostgreSQL) -> None:
    """End the connection that has the lock, as an administrator may."""
    server.ask("select pg_terminate_backend(pid) from pg_locks where granted and classid = :key", key=LOCK_CLASS)


def test_second_holder_is_refused_with_the_first_ones_process(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_lock, "TAKE_WITHIN_S", 0.2)

    async def scenario() -> None:
        async with hold_registry(url) as first:
            with pytest.raises(ConflictError, match=f"process {os.getpid()}.* on {os.uname().nodename}") as refused:
                async with hold_registry(url):
                    pass
            assert "registry.url" in refused.value.hint
            first.check()
        async with hold_registry(url) as next_one:
            next_one.check()

    asyncio.run(scenario())


def test_links_to_one_sqlite_file_have_one_lock(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "link").symlink_to(tmp_path / "registry.db")
        (tmp_path / "elsewhere").symlink_to(tmp_path)
        async with hold_registry(f"sqlite:///{tmp_path}/registry.db"):
            for other in (tmp_path / "link", tmp_path / "elsewhere" / "registry.db"):
                with pytest.raises(ConflictError):
                    async with hold_registry(f"sqlite:///{other}"):
                        pass

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///file:x?uri=true", "mysql://x/y", "postgresql://x/y", "postgresql+asyncpg://x/y"]
)
def test_database_that_cannot_be_locked_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match=r"registry\.url"):
        open_registry(url)
    with pytest.raises(InvalidInputError, match=r"registry\.url"):
        asyncio.run(_hold(url))


async def _hold(url: str) -> None:
    async with hold_registry(url):
        pass


def test_schemas_of_one_database_have_locks_of_their_own(server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The schema that has the tables counts, whatever the search path begins with."""
    monkeypatch.setattr(registry_lock, "TAKE_WITHIN_S", 0.2)
    server.ask("create schema one; create schema two")

    def through(path: str) -> str:
        return f"{server.url}&options=-csearch_path%3D{path}"

    async def scenario() -> None:
        async with hold_registry(through("one")) as lock, hold_registry(through("two")):
            (await asyncio.to_thread(open_registry, through("one"), lock=lock)).close()
            with pytest.raises(ConflictError):
                await _hold(through("nowhere,one"))

    try:
        asyncio.run(scenario())
    finally:
        server.ask("drop schema one cascade; drop schema two cascade")


def test_lost_connection_is_taken_again_at_once(server: PostgreSQL) -> None:
    async def scenario() -> None:
        async with hold_registry(server.url) as lock:
            assert isinstance(lock, PostgresLock)
            before = lock._own
            kill_lock(server)
            await until(lambda: lock._own != before and may_act(lock))
            assert not lock.lost.is_set()

    asyncio.run(scenario())


def test_nothing_is_written_or_ordered_while_the_lock_is_lost(server: PostgreSQL) -> None:
    """The database is away: until it is back and the lock is taken, each call is refused; then each works."""

    async def scenario() -> None:
        async with hold_registry(server.url) as lock:
            registry = await asyncio.to_thread(open_registry, server.url, lock=lock)
            scheduler = FakeScheduler()
            job = scheduler.submit("berth-x", user="alice")
            fenced = FencedScheduler(scheduler, lock.check)
            server.stop()
            try:
                await until(lambda: not may_act(lock))
                with pytest.raises(RegistryError):
                    registry.create(make_session(), EventEntry("alice", "start"))
                for order in (fenced.cancel(job), fenced.set_time_limit(job, 5), fenced.start_now(job)):
                    with pytest.raises(RegistryError):
                        await order
                assert not scheduler._jobs[job].state.ended
            finally:
                server.start()
            await until(lambda: may_act(lock))
            await asyncio.to_thread(registry.create, make_session(), EventEntry("alice", "start"))
            await fenced.cancel(job)
            assert scheduler._jobs[job].state.ended
            registry.close()

    asyncio.run(scenario())


def test_launcher_asks_nothing_while_the_lock_is_lost() -> None:
    """The request is refused before it is written, so nothing of it is done."""

    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.sendall(b'{"id": 0, "ok": {"storage": "/s/{user}"}}\n')
            async with LauncherClient(ours) as launcher:
                launcher.check = PostgresLock(parse_url("postgresql+psycopg://x/y")).check
                with pytest.raises(RegistryError):
                    await launcher.trash("alice", new_id())
                theirs.setblocking(False)
                with pytest.raises(BlockingIOError):
                    theirs.recv(1)

    asyncio.run(scenario())


def test_lock_that_another_has_taken_is_lost_for_good(server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_lock, "TAKE_WITHIN_S", 0.2)

    async def scenario() -> None:
        async with hold_registry(server.url) as lock:
            assert isinstance(lock, PostgresLock)
            waiting = sqlalchemy.create_engine(server.url)
            with waiting.connect() as other:
                taking = asyncio.create_task(
                    asyncio.to_thread(
                        other.execute, sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(*_signed(lock)))
                    )
                )
                await until(lambda: bool(server.ask("select 1 from pg_locks where not granted")))
                kill_lock(server)
                await taking
                await asyncio.wait_for(lock.lost.wait(), 20)
                assert not may_act(lock)
                assert "another controller" in lock.why
            waiting.dispose()

    asyncio.run(scenario())


def _signed(lock: PostgresLock) -> tuple[int, int]:
    key, schema = lock._key
    return key, schema - (1 << 32 if schema >= 1 << 31 else 0)


def test_own_connection_that_the_server_still_has_makes_room(server: PostgreSQL) -> None:
    """The client's end is gone, and the server does not know: after a cut, its half would stay for 30 s."""

    async def scenario() -> None:
        async with contextlib.aclosing(PostgresLock(parse_url(server.url))) as lock:
            await lock.take(0)
            before, left = lock._own, lock._connection
            assert left is not None
            lock._connection = None  # as if it had been cut: no code closes it
            await asyncio.wait_for(lock.take(0), 10)
            assert lock._own != before
            lock.check()
            await left.close()

    asyncio.run(scenario())


def test_fault_in_the_watch_ends_the_lock(server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """No fault may leave a controller that neither acts nor ends."""

    async def broken(_: PostgresLock) -> None:
        raise KeyError("unforeseen")

    async def scenario() -> None:
        async with hold_registry(server.url) as lock:
            await asyncio.wait_for(lock.lost.wait(), 20)
            assert not may_act(lock)

    monkeypatch.setattr(PostgresLock, "_confirm", broken)
    asyncio.run(scenario())


def test_server_that_stays_away_is_given_up(server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_lock, "REGAIN_WITHIN_S", 0.3)

    async def scenario() -> None:
        async with hold_registry(server.url) as lock:
            server.stop()
            try:
                await asyncio.wait_for(lock.lost.wait(), 20)
            finally:
                server.start()
            assert "has not been reached" in lock.why

    asyncio.run(scenario())


def test_server_that_hangs_is_not_believed(server: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server keeps the connection and answers nothing. The lock is valid again with the next answer."""
    monkeypatch.setattr(registry_lock, "CONFIRM_EVERY_S", 0.05)
    monkeypatch.setattr(registry_lock, "VALID_S", 0.5)

    async def scenario() -> None:
        async with hold_registry(server.url) as lock:
            assert isinstance(lock, PostgresLock)
            assert lock._own is not None
            os.kill(lock._own.pid, signal.SIGSTOP)
            try:
                await until(lambda: not may_act(lock))
            finally:
                os.kill(lock._own.pid, signal.SIGCONT)
            await until(lambda: may_act(lock))
            assert not lock.lost.is_set()

    asyncio.run(scenario())


def test_another_server_behind_the_url_is_not_written_to(server: PostgreSQL) -> None:
    """As after a failover: the pool's new connections reach a server that does not show the lock."""

    async def scenario() -> None:
        async with hold_registry(server.url) as lock:
            registry = await asyncio.to_thread(open_registry, server.url, lock=lock)
            registry.close()  # its connections are gone; it makes new ones
            with running() as other:
                sqlalchemy.event.listen(registry._engine, "do_connect", _lead_to(other.directory))
                with pytest.raises(RegistryError, match="does not show"):
                    await asyncio.to_thread(registry.count)
                registry.close()

    asyncio.run(scenario())


def _lead_to(directory: Path) -> Callable[[object, object, object, dict[str, object]], None]:
    def lead(_dialect: object, _record: object, _arguments: object, values: dict[str, object]) -> None:
        values["host"] = str(directory)

    return lead


def test_silent_machine_ceases_to_act_before_its_lock_is_free() -> None:
    """A real connection whose network is cut: the server lets go of the lock by itself, and the holder knew first."""
    own_network = ["unshare", "--net"]
    if os.getuid() != 0:
        own_network += ["--user", "--map-current-user", "--keep-caps"]
    done = subprocess.run(
        [*own_network, sys.executable, "-m", "tests.fakes.cut_off"],
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ceased, free = (float(word) for word in done.stdout.split())
    assert 0 < ceased < free < 10


def test_server_settings_outlast_the_validity() -> None:
    """The test above shows the same for a tenth of the times; this one for the times themselves."""
    seconds = {name: int(value) for name, value in registry_lock.SERVER_SETTINGS.items()}
    probes = seconds["tcp_keepalives_interval"] * seconds["tcp_keepalives_count"]
    silence = min(seconds["tcp_keepalives_idle"] + probes, seconds["tcp_user_timeout"] / 1000)
    assert registry_lock.VALID_S + registry_lock.ANSWER_WITHIN_S < silence <= 60


class PoolingProxy:
    """A relay that answers with a process id of its own, as PgBouncer does."""

    def __init__(self, place: Path, server: PostgreSQL) -> None:
        self._place, self._server = place, server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(place / ".s.PGSQL.5432"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> str:
        self._thread.start()
        return f"postgresql+psycopg://berth@/postgres?host={self._place}&gssencmode=disable&sslmode=disable"

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._thread.join(DEADLINE_S)

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(str(self._server.directory / ".s.PGSQL.5432"))
        with client, upstream:
            while True:
                for ready in select.select([client, upstream], [], [], 20)[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    if ready is upstream:  # BackendKeyData: `K`, its length 12, the process, the secret
                        data = re.sub(rb"(?s)(?<=K\0\0\0\x0c)....", lambda _: b"\0\0\0\x01", data)
                    (upstream if ready is client else client).sendall(data)


def test_pooling_proxy_is_refused_with_the_remedy(server: PostgreSQL, place: Path) -> None:
    with PoolingProxy(place, server) as url, pytest.raises(InvalidInputError, match="PgBouncer") as refused:
        asyncio.run(_hold(url))
    assert "PostgreSQL itself" in refused.value.hint
