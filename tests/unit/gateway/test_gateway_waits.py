"""One question to the controller for all clients of a worker that wait, and calls that their clients leave."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.errors import ControllerUnavailableError
from broker.gateway import controller_client, waits
from broker.gateway.controller_client import ControllerClient
from broker.gateway.counters import Counters
from broker.gateway.waits import SessionWaits
from broker.names import new_id
from broker.schema.connections import GatewayWait, GatewayWaitAnswer
from broker.schema.login import GatewayKeys
from tests.deadlines import DEADLINE_S
from tests.fakes.gateway_world import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


class Controller:
    """Keeps each question until the test answers it, and counts those that it has."""

    def __init__(self) -> None:
        self.asked: list[dict[str, int]] = []
        self.held: dict[asyncio.Future[list[str]], None] = {}
        self.most_held = 0
        self.away = False

    async def ask(self, question: GatewayWait) -> GatewayWaitAnswer:
        self.asked.append({each.session_id: each.revision for each in question.sessions})
        if self.away:
            raise ControllerUnavailableError("away")
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self.held[future] = None
        self.most_held = max(self.most_held, len(self.held))
        try:
            return GatewayWaitAnswer(changed=await future)
        finally:
            del self.held[future]

    def answer(self, *changed: str) -> None:
        (future,) = self.held
        future.set_result(list(changed))


def play(scene: Callable[[Controller, SessionWaits], Awaitable[None]]) -> None:
    async def whole() -> None:
        made = Controller()
        async with asyncio.timeout(DEADLINE_S):
            await scene(made, SessionWaits(made.ask))
        await until(lambda: not made.held and len(asyncio.all_tasks()) == 1)

    asyncio.run(whole())


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "GATHER_S", 0.01)
    monkeypatch.setattr(waits, "RETRY_S", 0.01)


def test_five_hundred_clients_wait_with_one_question() -> None:
    ids = [new_id() for _ in range(100)]

    async def scene(controller: Controller, waits: SessionWaits) -> None:
        clients = [asyncio.create_task(waits.until_changed(each, 7, 60)) for each in ids for _ in range(5)]
        await until(lambda: controller.asked and len(controller.asked[-1]) == 100 and controller.held)
        assert controller.most_held == 1
        controller.answer(ids[3])
        await asyncio.gather(*clients[15:20])
        await until(lambda: len(controller.asked[-1]) == 99 and controller.held)
        assert sum(client.done() for client in clients) == 5
        controller.answer(*ids)
        await asyncio.gather(*clients)

    play(scene)


def test_clients_that_leave_end_the_question() -> None:
    async def scene(controller: Controller, waits: SessionWaits) -> None:
        for _ in range(3):
            clients = [asyncio.create_task(waits.until_changed(new_id(), 0, 60)) for _ in range(10)]
            await until(lambda: controller.held)
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            await until(lambda: not controller.held)

    play(scene)


def test_time_that_is_over_ends_a_wait() -> None:
    async def scene(controller: Controller, waits: SessionWaits) -> None:
        await waits.until_changed(new_id(), 0, 0.05)
        await until(lambda: not controller.held)

    play(scene)


def test_newer_revision_wakes_those_that_know_an_older_one() -> None:
    session = new_id()

    async def scene(controller: Controller, waits: SessionWaits) -> None:
        older = asyncio.create_task(waits.until_changed(session, 1, 60))
        await until(lambda: controller.held)
        newer = asyncio.create_task(waits.until_changed(session, 2, 60))
        await older
        await waits.until_changed(session, 1, 60)
        await until(lambda: controller.asked[-1] == {session: 2} and controller.held)
        controller.answer(session)
        await newer

    play(scene)


def test_clients_wait_on_while_the_controller_is_restarted() -> None:
    session = new_id()

    async def scene(controller: Controller, waits: SessionWaits) -> None:
        controller.away = True
        client = asyncio.create_task(waits.until_changed(session, 1, 60))
        await until(lambda: len(controller.asked) > 3)
        assert not client.done()
        controller.away = False
        await until(lambda: controller.held)
        controller.answer(session)
        await client

    play(scene)


async def slow_keys(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer each question about keys a moment later."""
    body = GatewayKeys(user="alice", keys=[]).model_dump_json().encode()
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def leave(call: asyncio.Task[GatewayKeys], seconds: float) -> None:
    await asyncio.sleep(seconds)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


def test_abandoned_calls_use_up_no_connections(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpcore's pool loses a place for each request that is cancelled while its connection is made."""
    monkeypatch.setattr(controller_client, "KEYS_TIMEOUT_S", 5)

    async def scene() -> None:
        path = place / "api.sock"
        server = await asyncio.start_unix_server(slow_keys, path)
        async with ControllerClient(path, Counters()) as client:
            for _ in range(6):
                calls = [asyncio.create_task(client.keys("alice")) for _ in range(200)]
                await asyncio.gather(*(leave(call, number / 10_000) for number, call in enumerate(calls)))
            assert (await client.keys("alice")).user == "alice"
        server.close()
        await server.wait_closed()

    async def whole() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await scene()

    asyncio.run(whole())
