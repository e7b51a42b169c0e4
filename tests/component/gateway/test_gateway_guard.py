"""The proof that a forward has reached the session's own sshd: with real ones, and with impostors who take their
ports.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.gateway import guard, verifier
from broker.gateway.guard import EndpointAddress, HostKeyMismatchError
from broker.gateway.verifier import EndpointVerifier
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes import openssh
from tests.fakes.abrupt_session import Session
from tests.fakes.gateway_world import play, until
from tests.fakes.openssh import me

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.fakes.gateway_world import World

SECRET = b"what only the session may hear"
PATIENCE_S = 3600.0
"""For answers in tests of something else: a busy machine may take its time."""
ROUNDS, TRIES = 40, 25
"""Changes of a port's owner, and connections that are tried after each."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no guard end by itself. Tests of the limit set their own."""
    monkeypatch.setattr(guard, "LIFE_S", 3600.0)


class Impostor:
    """Takes a port, and records the bytes of each connection."""

    def __init__(self, *, says: bytes = b"", hangs_up: bool = True) -> None:
        self._says = says
        self._hangs_up = hangs_up
        self.heard: list[bytes] = []

    @contextlib.asynccontextmanager
    async def on(self, port: int) -> AsyncIterator[None]:
        while True:
            try:
                server = await asyncio.start_server(self._record, "127.0.0.1", port)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:  # which it is for a moment longer
                    raise
        try:
            yield
        finally:
            server.close()

    async def _record(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = len(self.heard)
        self.heard.append(b"")
        writer.write(self._says)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.heard[at] += data
                if self._hangs_up:
                    break
        writer.close()

    def heard_of_a_client(self) -> list[bytes]:
        """All but what the gateway itself says to whom it does not know yet: its version, and its algorithms."""
        return [each for each in self.heard if each and (not each.startswith(b"SSH-2.0-Berth\r\n") or SECRET in each)]


async def tries_in_vain(client: asyncssh.SSHClientConnection, target: str) -> None:
    """Connect and, should that succeed, say what must not be heard."""
    try:
        _, writer = await client.open_connection(target, 22)
    except asyncssh.ChannelOpenError:
        return
    writer.write(SECRET)
    await writer.drain()
    raise AssertionError("the gateway has connected a client to an impostor")


@pytest.mark.parametrize("says", [b"", b"SSH-2.0-OpenSSH_9.9\r\n"])
def test_an_impostor_hears_nothing_of_a_client(place: Path, says: bytes) -> None:
    """Half of the tries begin before the session has ended, when its guard stands, and are under way as it does."""

    async def scene(w: World) -> None:
        impostor = Impostor(says=says)
        async with Session(place / "session2") as session, await w.client() as client:
            w.controller.fingerprint = session.endpoint.fingerprint
            w.controller.sessions[me(), w.canonical] = ("127.0.0.1", session.port)
            for _ in range(ROUNDS // 2):
                reader, writer = await client.open_connection(w.canonical, 22)
                assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH")
                tries = [asyncio.create_task(tries_late(client, w.canonical)) for _ in range(TRIES // 2)]
                await session.end(wait=False)
                async with impostor.on(session.port):
                    tries += [asyncio.create_task(tries_in_vain(client, w.canonical)) for _ in range(TRIES)]
                    await asyncio.gather(*tries)
                writer.close()
                await session.start()
        assert impostor.heard
        assert impostor.heard_of_a_client() == []

    play(place, scene, max_forwards=1000)


async def tries_late(client: asyncssh.SSHClientConnection, target: str) -> None:
    """The same while the session may live still: no other process gets its bytes then."""
    with contextlib.suppress(asyncssh.ChannelOpenError, ConnectionError):
        _, writer = await client.open_connection(target, 22)
        writer.write(SECRET)
        await writer.drain()


def test_another_sshd_on_the_port_is_refused_in_words(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(w: World) -> None:
        async with Session(place / "session2") as other:
            w.controller.sessions[me(), w.canonical] = ("127.0.0.1", other.port)
            done = await w.ssh("dev.berth", "true")
            assert done.code == 255
            assert f"the server on 127.0.0.1 is not {me()}.dev; Berth sent it nothing" in done.err
            assert "event=impostor session=01session" in caplog.text
            assert "Accepted" not in other.log

    play(place, scene)


def test_the_next_generation_has_a_guard_of_its_own(place: Path) -> None:
    async def scene(w: World) -> None:
        assert (await w.ssh("dev.berth", "true")).code == 0
        async with Session(place / "session2") as other:
            w.controller.generation = "2.0"
            w.controller.sessions[me(), w.canonical] = ("127.0.0.1", other.port)
            assert (await w.ssh("dev.berth", "true")).code == 255
            w.controller.fingerprint = other.endpoint.fingerprint
            async with await w.client() as client:
                reader, _ = await client.open_connection(w.canonical, 22)
                assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH")

    play(place, scene)


def test_client_hears_after_the_sites_own_time_that_a_session_does_not_answer(place: Path) -> None:
    async def scene(w: World) -> None:
        port = openssh.free_port()
        w.controller.sessions[me(), w.canonical] = ("127.0.0.1", port)
        async with Impostor(hangs_up=False).on(port), await w.client() as client:
            with pytest.raises(asyncssh.ChannelOpenError, match=r"does not answer on 127\.0\.0\.1"):
                await client.open_connection(w.canonical, 22)

    play(place, scene, answer_timeout=0.2)


def alone(scene: Callable[[EndpointVerifier], object]) -> None:
    async def whole() -> None:
        guards = EndpointVerifier(answer_timeout=PATIENCE_S)
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(guards)  # type: ignore[misc]  # a coroutine function
        guards.close()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        assert len(guards) == 0

    asyncio.run(whole())


def test_many_forwards_share_one_key_exchange(place: Path) -> None:
    async def scene(guards: EndpointVerifier) -> None:
        async with Session(place) as session:
            await session.end()
            await session.start("LogLevel=VERBOSE")
            await asyncio.gather(*(guards.prove(session.endpoint) for _ in range(200)))
            await guards.prove(session.endpoint)
            assert session.log.count("Connection from") == 1
            assert len(guards) == 1

    alone(scene)


def test_a_guard_looks_for_nothing_in_a_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway may be unable to look into its home. Nothing is closed to root, but a name that is too long is."""
    monkeypatch.setenv("HOME", f"/{'x' * 300}")

    async def scene(guards: EndpointVerifier) -> None:
        async with Session(place) as session:
            await guards.prove(session.endpoint)

    alone(scene)


def test_a_guard_that_sshd_has_given_up_is_made_anew(place: Path) -> None:
    async def scene(guards: EndpointVerifier) -> None:
        async with Session(place) as session:
            await session.end()
            await session.start("LoginGraceTime=1", "LogLevel=VERBOSE")
            await guards.prove(session.endpoint)
            await until(lambda: not len(guards))
            await guards.prove(session.endpoint)
            assert session.log.count("Connection from") == 2
            await session.end()
            await session.start("LogLevel=VERBOSE")
            await asyncio.gather(*(guards.prove(session.endpoint) for _ in range(10)))

    alone(scene)


def test_forward_in_the_moment_that_a_guard_ends_gets_through(place: Path) -> None:
    async def scene(guards: EndpointVerifier) -> None:
        async with Session(place) as session:
            ends = guards.prepare(session.endpoint)
            assert ends is not None
            await guards.prove(session.endpoint)
            _, sshd, *of_guard = session.processes()
            for each in of_guard:
                os.kill(each, signal.SIGKILL)
            while not ends._standing.done():  # noqa: ASYNC110 - the forward comes in the very iteration of the loop
                await asyncio.sleep(0)
            await guards.prove(session.endpoint)
            assert sshd in session.processes()

    alone(scene)


def test_who_does_not_answer(place: Path) -> None:
    async def scene(guards: EndpointVerifier) -> None:
        async def refused(endpoint: EndpointAddress, error: type[Exception]) -> None:
            """Expect the error: a timeout soon, and anything else after as long as the machine needs."""
            guards.answer_timeout = 0.3 if error is TimeoutError else PATIENCE_S
            with pytest.raises(error):
                await guards.prove(endpoint)
            guards.answer_timeout = PATIENCE_S

        async with Session(place) as session:
            endpoint = session.endpoint
            await guards.prove(endpoint)
            session.signal(signal.SIGSTOP)
            await refused(endpoint, TimeoutError)
            session.signal(signal.SIGCONT)
            await guards.prove(endpoint)
            await session.end()
            with pytest.raises(ConnectionRefusedError):
                await guards.prove(endpoint)
            for impostor, error in [
                (Impostor(), ConnectionResetError),
                (Impostor(hangs_up=False), TimeoutError),
                (Impostor(says=b"SSH-2.0-x\r\n", hangs_up=False), TimeoutError),
                (Impostor(says=b"HTTP/1.1 200 OK\r\n\r\n" * 100), ConnectionResetError),
            ]:
                async with impostor.on(session.port):
                    await refused(endpoint, error)
            await session.start()
            with pytest.raises(HostKeyMismatchError):
                await guards.prove(endpoint._replace(fingerprint="SHA256:" + "x" * 43))
            await guards.prove(endpoint)

    alone(scene)


def test_guard_that_its_server_never_ends_is_made_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LIFE_S", 0.3)

    async def scene(guards: EndpointVerifier) -> None:
        async with Session(place) as session:
            await session.end()
            await session.start("LoginGraceTime=0", "LogLevel=VERBOSE")
            await guards.prove(session.endpoint)
            await until(lambda: not len(guards))
            await guards.prove(session.endpoint)
            assert session.log.count("Connection from") == 2

    alone(scene)


def test_guards_do_not_become_many(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_GUARDS", 3)

    async def scene(guards: EndpointVerifier) -> None:
        async with Session(place) as session:
            for generation in range(6):
                await guards.prove(session.endpoint._replace(generation=f"{generation}.0"))
                assert len(guards) <= 3

    alone(scene)


@pytest.mark.parametrize("most", [verifier.MAX_GUARDS_PER_OWNER, 2])
def test_forwards_to_many_sessions_of_one_owner_all_get_through(
    place: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """A script logs in to all of its user's sessions at once."""
    monkeypatch.setattr(verifier, "MAX_GUARDS_PER_OWNER", most)

    async def scene(guards: EndpointVerifier) -> None:
        async def forward(endpoint: EndpointAddress) -> None:
            guards.prepare(endpoint)
            await asyncio.sleep(0)  # while it is connected
            await guards.prove(endpoint)
            assert len(guards) <= most

        async with Session(place) as session:
            endpoints = [session.endpoint._replace(session_id=f"{number:02}session") for number in range(40)]
            await asyncio.gather(*(forward(each) for each in endpoints))
            await asyncio.gather(*(guards.prove(each) for each in [*endpoints, *endpoints]))

    alone(scene)


def test_forward_beyond_unanswered_guards_waits_for_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MAX_GUARDS_PER_OWNER", 2)

    async def scene(guards: EndpointVerifier) -> None:
        port = openssh.free_port()
        async with Session(place) as session, Impostor(hangs_up=False).on(port):
            silent = [session.endpoint._replace(port=port, session_id=f"{number}") for number in range(2)]
            asked = [asyncio.create_task(guards.prove(each)) for each in silent]
            await asyncio.sleep(0)
            waiting = asyncio.create_task(guards.prove(session.endpoint))
            await guards.prove(session.endpoint._replace(owner="carol"))
            assert not waiting.done()
            asked[0].cancel()
            await waiting
            again = asyncio.create_task(guards.prove(silent[0]))
            await asyncio.sleep(0)
            guards.answer_timeout = 0.1
            with pytest.raises(TimeoutError):
                await guards.prove(session.endpoint)
            guards.answer_timeout = PATIENCE_S
            asked[1].cancel()
            again.cancel()
            await guards.prove(session.endpoint)

    alone(scene)
