"""Revocations after reloads: each ends its own streams in all of HAProxy's processes, and no others."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from broker.names import new_id
from tests.component.web.http2 import connect_http2, http2_request
from tests.deadlines import DEADLINE_S
from tests.fakes.haproxy_release import RELEASES
from tests.fakes.raw_http import Wire, request
from tests.fakes.web_world import OWN_PAGE, Entered, WebWorld, allow_sessions, play_web

if TYPE_CHECKING:
    from broker.web.master_socket import MasterSocket

ENDED = 2**22 + 1
"""The id of no process: above the greatest that Linux gives."""
_NUMBERS = itertools.count(1)
pytestmark = pytest.mark.parametrize("haproxy", RELEASES, indirect=True)


@dataclass(frozen=True)
class _Stream:
    """An open stream of a browser: `kind` is `download`, `events` or `ws`."""

    world: WebWorld
    wire: Wire
    kind: str
    name: str

    async def is_open(self) -> bool:
        """Whether a line of the service passes through it."""
        line = f"line {next(_NUMBERS)}\n".encode()
        if self.kind == "ws":
            await self.wire.send(line)
        else:
            self.world.echo.streams[self.name].write(line)
        return await self.wire.exactly(len(line)) == line


async def _streams(world: WebWorld, browser: Entered) -> list[_Stream]:
    """A stream of each kind, in the present process of HAProxy."""
    answer, socket = await world.websocket(browser)
    assert answer.status == 101
    opened = [_Stream(world, socket, "ws", "")]
    headers = OWN_PAGE | world.cookie(browser)
    for kind in ("download", "events"):
        name, wire = f"{kind}{next(_NUMBERS)}", await world.wire(browser.host)
        await wire.send(request("GET", f"/{kind}?{name}", world.authority(browser.host), headers))
        assert (await wire.head()).status == 200
        opened.append(_Stream(world, wire, kind, name))
    assert all([await each.is_open() for each in opened])
    return opened


async def _two_browsers_in_two_sessions(world: WebWorld) -> list[Entered]:
    """The grants of the first browser in both sessions, and then those of the second one."""
    sessions = {"dev": world.session_id, "lab": new_id()}
    allow_sessions(world, list(sessions.values()))
    made = []
    for delegation_id in (new_id(), new_id()):
        for session, session_id in sessions.items():
            host = world.host().replace("--dev--", f"--{session}--")
            visit = world.controller.visit(host, "echo", session_id)
            visit = visit.model_copy(update={"delegation_id": delegation_id, "session": session})
            world.controller.visits[visit.secret] = visit
            made.append(await world.enter_until_open(visit))
    return made


def _master(world: WebWorld) -> MasterSocket:
    return world.gateway.haproxy._master


async def _open_in_each_process(world: WebWorld, browsers: list[Entered]) -> dict[str, list[_Stream]]:
    """Streams by their visits: of all in the first process and in the present one, of one in each between."""
    streams: dict[str, list[_Stream]] = {each.visit.id: [] for each in browsers}
    for present in (browsers, *([each] for each in browsers), browsers):
        if any(streams.values()):
            await world.gateway.haproxy.reload()
        for browser in present:
            streams[browser.visit.id] += await _streams(world, browser)
    assert len(await _master(world).workers()) == len(browsers) + 2
    return streams


def test_revocation_closes_its_own_streams_in_all_processes_and_no_others(haproxy: str) -> None:
    """A process that has streams of the revoked visit only ends with them, while berth-web asks it for more."""
    assert haproxy

    async def scene(world: WebWorld) -> None:
        browsers = await _two_browsers_in_two_sessions(world)
        streams = await _open_in_each_process(world, browsers)
        first, second, *others = browsers
        for ended, message in (
            ([first], {"visit_ids": [first.visit.id]}),
            ([second], {"delegation_ids": [second.visit.delegation_id]}),
            (others, {"visit_ids": [each.visit.id for each in others]}),
        ):
            await world.close(**message)
            for stream in [each for browser in ended for each in streams.pop(browser.visit.id)]:
                assert await stream.wire.rest() == b""
            for stream in [each for rest in streams.values() for each in rest]:
                assert await stream.is_open(), stream
            activity = await world.gateway.haproxy.activity()
            assert sum(each.current for each in activity.values()) == sum(map(len, streams.values()))

    play_web(scene)


def test_older_process_that_does_not_answer_is_killed_alone(haproxy: str) -> None:
    assert haproxy

    async def scene(world: WebWorld) -> None:
        ended, other = await world.entered(), await world.entered()
        oldest = await _streams(world, other)
        await world.gateway.haproxy.reload()
        stuck, lost = await _streams(world, ended), await _streams(world, other)
        older, *_ = await _master(world).workers()
        await world.gateway.haproxy.reload()
        closed, stays = await _streams(world, ended), await _streams(world, other)
        os.kill(older, signal.SIGSTOP)
        await world.close(visit_ids=[ended.visit.id])
        for stream in (*stuck, *lost, *closed):
            assert await stream.wire.rest() == b""
        for stream in (*oldest, *stays):
            assert await stream.is_open(), stream
        assert len(await _master(world).workers()) == 2
        assert (await world.get(ended)).status == 403

    play_web(scene)


def _list_ended_process(world: WebWorld) -> None:
    """Let the master's list have a process that has ended since, as happens at any time."""
    master = _master(world)
    workers = master.workers

    async def out_of_date() -> list[int]:
        return [*await workers(), ENDED]

    vars(master).update(workers=out_of_date)


def test_process_that_has_ended_since_it_was_listed_costs_nobody_a_connection(haproxy: str) -> None:
    """More often than the master allows connections, which are ten."""
    assert haproxy

    async def scene(world: WebWorld) -> None:
        other = await world.entered()
        stays = await _streams(world, other)
        present = await _master(world).workers()
        _list_ended_process(world)
        for _ in range(12):
            ended = await world.entered()
            answer, socket = await world.websocket(ended)
            assert answer.status == 101
            await world.close(visit_ids=[ended.visit.id])
            assert await socket.rest() == b""
        assert await _master(world).workers() == [*present, ENDED]
        assert not await _master(world).is_serving(ENDED)
        for stream in stays:
            assert await stream.is_open(), stream

    play_web(scene)


def test_traffic_of_a_process_that_has_ended_since_it_was_listed_stays_counted(haproxy: str) -> None:
    assert haproxy

    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        await _streams(world, browser)
        before = await world.gateway.haproxy.traffic()
        older = await _master(world).workers()
        await world.gateway.haproxy.reload()
        await world.close(visit_ids=[browser.visit.id])
        present, *_ = await _master(world).workers()
        async with asyncio.timeout(DEADLINE_S):
            while await _master(world).run(older[0], ["show info"]):  # noqa: ASYNC110 - HAProxy sets no Event
                await asyncio.sleep(0.02)

        async def out_of_date() -> list[int]:
            return [present, *older]

        vars(_master(world)).update(workers=out_of_date)
        after = await world.gateway.haproxy.traffic()
        assert all(after.counts[name] >= count for name, count in before.counts.items()), (before, after)

    play_web(scene)


def test_connection_of_http2_to_an_older_process_opens_nothing_after_its_revocation(haproxy: str) -> None:
    """HAProxy says that the connection ends with its streams, but takes the requests of one who does not hear it."""
    assert haproxy

    async def scene(world: WebWorld) -> None:
        ended, other = await world.entered(), await world.entered()
        events = {}
        for browser in (ended, other):
            connection = await connect_http2(world, browser)
            events[browser] = connection, await connection.send(_events(world, browser))
            assert await connection.status(events[browser][1]) == 200
        await world.gateway.haproxy.reload()
        await world.close(visit_ids=[ended.visit.id])
        connection, stream = events[ended]
        assert await connection.ends(stream)
        world.echo.heads.clear()
        assert await connection.status(await connection.send(_events(world, ended))) in {0, 403}
        assert not world.echo.heads
        connection, stream = events[other]
        world.echo.streams[other.visit.id].write(b"still")
        assert await connection.data(stream, 5) == b"still"

    play_web(scene, tls=True)


def _events(world: WebWorld, browser: Entered) -> list[tuple[str, str]]:
    headers = OWN_PAGE | world.cookie(browser)
    more = [(name.lower(), value) for name, value in headers.items()]
    return http2_request(world, browser, "GET", f"/events?{browser.visit.id}", *more)
