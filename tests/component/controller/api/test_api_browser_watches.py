"""The stream of changes for berth-web: of all its browsers on one connection, of each only what its login allows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from broker.controller.web import browser_watches
from broker.names import new_id
from broker.schema.sessions import SessionState
from broker.schema.web import DELEGATION_HEADER, WATCH_STREAMS_PATH, WATCHES_PATH
from broker.web.controller_client import WebControllerClient
from broker.web.event_stream import parse_events
from broker.web.portal.live_sessions import LiveSessions
from tests.component.controller.api.api_server import calling, calls_under_way, refusal, serving
from tests.component.controller.api.test_api_web import accounts, secret_of, site
from tests.deadlines import DEADLINE_S
from tests.fakes.gateway_world import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx
    import pytest

    from tests.fakes.core import Core

__all__ = ["accounts"]


class Stream:
    """berth-web's connection: its id, and its events."""

    def __init__(self, response: httpx.Response, stream_id: str) -> None:
        self.id = stream_id
        self._events = parse_events(response.aiter_bytes())

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next event that is no heartbeat."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                kind, data = await anext(self._events)
                if data:
                    return kind, json.loads(data)

    async def rest(self) -> list[str]:
        """The kinds of the events until the stream ends."""
        async with asyncio.timeout(DEADLINE_S):
            return [kind async for kind, data in self._events if data]


@contextlib.asynccontextmanager
async def streaming(path: Path) -> AsyncIterator[Stream]:
    stream_id = new_id()
    async with (
        calling(path) as client,
        client.stream("POST", WATCH_STREAMS_PATH, json={"id": stream_id}, timeout=DEADLINE_S) as response,
    ):
        assert response.status_code == 200
        yield Stream(response, stream_id)


async def watch(client: httpx.AsyncClient, stream: Stream, secret: str) -> str:
    """Begin a watch; its id."""
    watch_id = new_id()
    body = {"stream": stream.id, "id": watch_id}
    response = await client.post(WATCHES_PATH, json=body, headers={DELEGATION_HEADER: secret})
    assert response.status_code == 201, response.text
    return watch_id


def names(event: dict[str, Any]) -> list[str]:
    return [each["name"] for each in event.get("sessions", event.get("changed", []))]


def open_streams(core: Core) -> int:
    return core.watches._streams.total()


def test_each_browser_has_the_sessions_of_its_user_only(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.ready("hers", user="alice")
        await core.ready("his", user="bob")
        async with serving(core) as path, calling(path) as client, streaming(path) as stream:
            alice = await watch(client, stream, await secret_of(core, client, "alice"))
            kind, event = await stream.next()
            assert (kind, event["watch"], names(event)) == ("sessions", alice, ["hers"])
            bob = await watch(client, stream, await secret_of(core, client, "bob"))
            kind, event = await stream.next()
            assert (kind, event["watch"], names(event)) == ("sessions", bob, ["his"])
            await core.sessions.stop("bob", "his")
            kind, event = await stream.next()
            assert (kind, event["watch"], names(event)) == ("change", bob, ["his"])

    asyncio.run(scenario())


def test_watch_ends_with_its_login_and_others_stay(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.ready(user="alice")
        async with serving(core) as path, calling(path) as client, streaming(path) as stream:
            first, second = await secret_of(core, client), await secret_of(core, client)
            ended = await watch(client, stream, first)
            await stream.next()
            stays = await watch(client, stream, second)
            await stream.next()
            await client.delete("/v1/web/delegation", headers={DELEGATION_HEADER: first})
            assert await stream.next() == ("ended", {"watch": ended, "logged_out": True})
            await core.sessions.stop("alice", "dev")
            assert (await stream.next())[1]["watch"] == stays
            body = {"stream": stream.id, "id": new_id()}
            response = await client.post(WATCHES_PATH, json=body, headers={DELEGATION_HEADER: first})
            assert (response.status_code, refusal(response).reason) == (401, "logged-out")

    asyncio.run(scenario())


def test_reader_that_is_slow_gets_the_newest_state_and_no_queue(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.ready(user="alice")
        async with serving(core) as path, calling(path) as client:
            stream = core.web.watches.open(new_id()) if core.web else None
            assert stream is not None
            assert core.web is not None
            secret = await secret_of(core, client)
            await stream.add(await core.web.browsers.authenticate(secret), new_id())
            row = core.row(user="alice")
            for number in range(50):  # nobody reads meanwhile
                core.changes.announce(row.id, "alice")
                await asyncio.sleep(0)
                assert stream._events.qsize() <= 1, number
            await core.sessions.stop("alice", "dev")
            stopping = asyncio.Event()
            events = stream.events(stopping)
            states: list[str] = []
            async with asyncio.timeout(DEADLINE_S):
                while not states or states[-1] != "stopping":
                    event = await anext(events)
                    if event.startswith(b"event"):
                        record = json.loads(event.partition(b"data: ")[2])
                        states += [each["state"] for each in record.get("sessions", record.get("changed"))]
            assert states in (["ready", "stopping"], ["stopping"])
            stream.close()

    asyncio.run(scenario())


def test_watches_end_with_the_connection_and_one_by_one(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.ready(user="alice")
        async with serving(core) as path, calling(path) as client:
            async with streaming(path) as stream:
                secret = await secret_of(core, client)
                first, _ = [await watch(client, stream, secret) for _ in range(2)]
                assert open_streams(core) == 2
                for ended in (True, False):
                    answer = await client.delete(f"{WATCHES_PATH}/{first}")
                    assert answer.json() == {"ended": ended}
                    await until(lambda: open_streams(core) == 1)
            await until(lambda: open_streams(core) == 0)
            body = {"stream": stream.id, "id": new_id()}
            response = await client.post(WATCHES_PATH, json=body, headers={DELEGATION_HEADER: secret})
            assert (response.status_code, refusal(response).reason) == (404, "not-found")

    asyncio.run(scenario())


def test_streams_and_ids_are_limited(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser_watches, "MAX_STREAMS", 1)
    monkeypatch.setattr(browser_watches, "MAX_WATCHES", 1)

    async def scenario() -> None:
        core = site(directory)
        async with serving(core) as path, calling(path) as client, streaming(path) as stream:
            assert (await client.post(WATCH_STREAMS_PATH, json={"id": stream.id})).status_code == 409
            assert (await client.post(WATCH_STREAMS_PATH, json={"id": new_id()})).status_code == 429
            secret = await secret_of(core, client)
            watch_id = await watch(client, stream, secret)
            header = {DELEGATION_HEADER: secret}
            for each, status in ((watch_id, 409), (new_id(), 429)):
                response = await client.post(WATCHES_PATH, json={"stream": stream.id, "id": each}, headers=header)
                assert response.status_code == status

    asyncio.run(scenario())


def test_stream_ends_with_the_controller(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.ready(user="alice")
        async with contextlib.AsyncExitStack() as ours:
            async with serving(core) as path, calling(path) as client:
                stream = await ours.enter_async_context(streaming(path))
                await watch(client, stream, await secret_of(core, client))
                await stream.next()
                rest = asyncio.create_task(stream.rest())
                await asyncio.sleep(0)
            assert await rest in ([], ["ended"])

    asyncio.run(scenario())


def test_pages_of_berth_web_follow_a_real_controller_over_one_connection(directory: Path) -> None:
    async def scenario() -> None:
        core = site(directory)
        await core.ready("hers", user="alice")
        await core.ready("his", user="bob")
        async with serving(core) as path, calling(path) as client, LiveSessions(WebControllerClient(path)) as live:
            secrets = {user: await secret_of(core, client, user) for user in ("alice", "bob")}
            with live.page(secrets["alice"]) as hers, live.page(secrets["alice"]), live.page(secrets["bob"]) as his:
                assert await hers.wait(0, DEADLINE_S)
                assert await his.wait(0, DEADLINE_S)
                assert calls_under_way() == 1
                assert live.pages == 3
                at = hers.news(0).number, his.news(0).number
                await core.sessions.stop("bob", "his")
                assert await his.wait(at[1], DEADLINE_S)
                assert his.news(at[1]).lines[0].startswith(f"his: {SessionState.STOPPING}")
                assert not hers.news(at[0]).lines
                await client.delete("/v1/web/delegation", headers={DELEGATION_HEADER: secrets["bob"]})
                async with asyncio.timeout(DEADLINE_S):
                    while not his.has_ended:
                        await his.wait(his.news(0).number, DEADLINE_S)
                assert not hers.has_ended

    asyncio.run(scenario())
