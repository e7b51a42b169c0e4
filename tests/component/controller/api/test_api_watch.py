"""The stream of a user's sessions, over the real socket: complete, resumable, bounded, and of that user only."""

from __future__ import annotations

import asyncio
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import pytest

from broker.client.client import Client
from broker.client.watch import SessionWatch
from broker.controller.reconcile import observed_slurm
from broker.controller.sessions import watch as session_watch
from broker.errors import ControllerUnavailableError, RefusedError
from broker.schema.sessions import SessionState
from broker.schema.watch import SessionsChange, SessionsSnapshot
from tests.component.controller.api.api_server import (
    ME,
    OTHER,
    as_other,
    calling,
    calls_under_way,
    make,
    needs_root,
    refusal,
    serving,
)
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Core, site_config
from tests.fakes.gateway_world import until
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import SilentScheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from broker.controller.registry.models import Session
    from broker.schema.watch import SessionsEvent


class Watching:
    """A watch whose blocking calls run in a thread of its own: the controller's work needs the shared ones."""

    def __init__(self, path: Path, since: str | None = None) -> None:
        self._path, self._since = path, since
        self._thread = ThreadPoolExecutor(1)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.watch = await loop.run_in_executor(self._thread, Client(self._path).watch, self._since)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.watch.close()
        self._thread.shutdown(wait=False)

    async def next(self) -> SessionsEvent:
        reading = asyncio.get_running_loop().run_in_executor(self._thread, next, self.watch)
        return await asyncio.wait_for(reading, DEADLINE_S)

    async def snapshot(self) -> SessionsSnapshot:
        event = await self.next()
        assert isinstance(event, SessionsSnapshot)
        return event

    async def change(self) -> SessionsChange:
        event = await self.next()
        assert isinstance(event, SessionsChange)
        return event

    async def change_with(self, wanted: Callable[[SessionsChange], object]) -> SessionsChange:
        """Return the next wanted change: another one of the controller's may come before it."""
        while not wanted(change := await self.change()):
            pass
        return change


def names(event: SessionsEvent) -> list[str]:
    return [view.name for view in (event.sessions if isinstance(event, SessionsSnapshot) else event.changed)]


def test_a_stream_has_a_snapshot_and_then_each_change(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        await core.stopped("old", user=ME)
        async with serving(core) as path, calling(path) as client, Watching(path) as stream:
            snapshot = await stream.snapshot()
            listed = (await client.get("/v1/sessions")).json()["sessions"]
            assert [view.model_dump(mode="json") for view in snapshot.sessions] == listed
            await core.sessions.stop(ME, "dev")
            stopping = await stream.change()
            assert [(view.name, view.state) for view in stopping.changed] == [("dev", SessionState.STOPPING)]
            assert stopping.removed == []
            await core.sessions.delete(ME, "old", purge=True)
            await core.tick()
            gone = await stream.change_with(lambda change: change.removed)
            assert gone.removed == [view.id for view in snapshot.sessions if view.name == "old"]
            await core.start("new", user=ME)
            await stream.change_with(lambda change: "new" in names(change))

    asyncio.run(scenario())


def test_a_revision_resumes_and_an_unknown_one_begins_anew(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        await core.ready("other", user=ME)
        async with serving(core) as path, calling(path) as client:
            async with Watching(path) as stream:
                first = await stream.snapshot()
            await core.sessions.stop(ME, "dev")
            await core.sessions.stop(ME, "dev")
            async with Watching(path, first.revision) as resumed:
                change = await resumed.change()
            assert names(change) == ["dev"]
            boot_id, _, number = change.revision.partition("-")
            for unknown in ("0-1", f"{boot_id}-0", f"{boot_id}-{int(number) + 1000}", "nonsense", f"{boot_id}-x"):
                async with Watching(path, unknown) as stream:
                    assert sorted(names(await stream.snapshot())) == ["dev", "other"], unknown
            headers = {"Accept": "text/event-stream", "Last-Event-ID": first.revision}
            async with client.stream("GET", "/v1/sessions/watch?since=0-1", headers=headers) as response:
                lines = response.aiter_lines()
                assert (await anext(lines), await anext(lines)) == ("event: change", f"id: {change.revision}")
                assert json.loads((await anext(lines)).removeprefix("data: "))["revision"] == change.revision

    asyncio.run(scenario())


def test_a_deletion_is_resumed_until_it_is_forgotten(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_watch, "MAX_REMOVED", 1)

    async def scenario() -> None:
        core = make(directory)
        ids = [(await core.stopped(name, user=ME)).id for name in ("one", "two")]
        async with serving(core) as path, Watching(path) as stream:
            first = await stream.snapshot()
            await core.sessions.delete(ME, "one", purge=True)
            await core.tick()
            while not (await stream.change()).removed:
                pass
            async with Watching(path, first.revision) as resumed:
                assert (await resumed.change()).removed == ids[:1]
            await core.sessions.delete(ME, "two", purge=True)
            await core.tick()
            while not (await stream.change()).removed:
                pass
            async with Watching(path, first.revision) as anew:
                assert (await anew.snapshot()).sessions == []

    asyncio.run(scenario())


@needs_root
def test_no_stream_has_another_users_session(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory, watch={"heartbeat": 0.1})
        await core.ready("secret", user=OTHER)
        async with serving(core) as path, Watching(path) as stream:
            assert (await stream.snapshot()).sessions == []
            await core.sessions.stop(OTHER, "secret")
            await core.start(user=ME)
            change = await stream.change()
            assert (names(change), change.removed) == (["dev"], [])
            status, body = await as_other(path, "GET", "/v1/sessions")
            assert (status, [view["name"] for view in body["sessions"]]) == (200, ["secret"])

    asyncio.run(scenario())


def test_a_session_named_watch_is_shown(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready("watch", user=ME)
        async with serving(core) as path, calling(path) as client, Watching(path) as stream:
            assert (await client.get("/v1/sessions/watch")).json()["name"] == "watch"
            assert (await asyncio.to_thread(Client(path).session, "watch")).name == "watch"
            assert names(await stream.snapshot()) == ["watch"]

    asyncio.run(scenario())


def test_the_number_of_streams_of_a_user_is_bounded(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory, watch={"max_user_streams": 2})
        async with serving(core) as path, calling(path) as client:
            async with Watching(path) as one, Watching(path) as two:
                await asyncio.gather(one.snapshot(), two.snapshot())
                with pytest.raises(RefusedError, match=r"limit of watches reached \(2 of 2\)") as caught:
                    await asyncio.to_thread(SessionWatch, path)
                assert "berth list --watch" in caught.value.hint
                response = await client.get("/v1/sessions/watch", headers={"Accept": "text/event-stream"})
                assert (response.status_code, refusal(response).reason) == (429, "refused")
            await until(lambda: calls_under_way() == 0)
            async with Watching(path) as again:
                await again.snapshot()

    asyncio.run(scenario())


def test_a_quiet_stream_has_heartbeats(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory, watch={"heartbeat": 0.1})
        async with serving(core) as path, calling(path) as client:
            accept = {"Accept": "text/event-stream"}
            async with client.stream("GET", "/v1/sessions/watch", headers=accept) as response:
                assert response.headers["Berth-Heartbeat"] == "0.1"
                assert response.headers["Content-Type"].startswith("text/event-stream")
                lines = [line async for line in _first(response.aiter_lines(), 8)]
            assert lines[4:] == [": alive", "", ": alive", ""]

    asyncio.run(scenario())


async def _first(lines: Any, count: int) -> Any:  # noqa: ANN401 - of httpx
    for _ in range(count):
        yield await asyncio.wait_for(anext(lines), DEADLINE_S)


def test_a_stream_ends_when_the_controller_stops(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        async with contextlib.AsyncExitStack() as stack:
            async with serving(core) as path:
                stream = await stack.enter_async_context(Watching(path))
                await stream.snapshot()
                began = asyncio.get_running_loop().time()
            assert asyncio.get_running_loop().time() - began < session_watch.FEED_TTL_S / 20
            with pytest.raises(ControllerUnavailableError, match="ended the stream"):
                await stream.next()

    asyncio.run(scenario())


def test_a_slow_reader_gets_the_newest_state_once(directory: Path) -> None:
    """The first event does not fit into the connection's buffers, so that the stream waits for its reader."""

    async def scenario() -> None:
        core = make(directory)
        ids = [(await core.stopped(f"s{number}", user=ME)).id for number in range(12)]

        async def write(letter: str) -> None:
            for session_id in ids:
                await core.async_registry.update(session_id, lambda _: ({"reason": letter * 80_000}, None))

        await write("a")
        async with serving(core) as path, Watching(path) as quick, Watching(path) as slow:
            await quick.snapshot()
            for letter in "bcd":
                await write(letter)
                seen: set[str] = set()
                while len(seen) < len(ids):
                    seen |= {view.name for view in (await quick.change()).changed if view.reason[0] == letter}
            assert {view.reason[0] for view in (await slow.snapshot()).sessions} == {"a"}
            assert [view.reason[0] for view in (await slow.change()).changed] == ["d"] * len(ids)

    asyncio.run(scenario())


def test_watches_read_each_change_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        reads: list[object] = []

        by_ids = core.registry.by_ids

        def count(ids: Iterable[str]) -> list[Session]:
            reads.append(ids)
            return by_ids(ids)

        monkeypatch.setattr(core.registry, "by_ids", count)
        async with serving(core) as path, contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(Watching(path)) for _ in range(20)]
            await asyncio.gather(*(stream.snapshot() for stream in streams))
            queries = len(core.scheduler.asked)
            await core.sessions.stop(ME, "dev")
            events = await asyncio.gather(*(stream.change() for stream in streams))
            assert {tuple(names(event)) for event in events} == {("dev",)}
            assert len(reads) == 1
            assert len(core.scheduler.asked) == queries

    asyncio.run(scenario())


def test_a_watch_shows_the_place_in_the_queue(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed_slurm, "PLACE_INTERVAL_S", 0.0)

    async def scenario() -> None:
        core = make(directory)
        other = core.scheduler.submit("other", user="bob")
        await core.start(user=ME)
        await core.tick()
        async with serving(core) as path, Watching(path) as stream:
            assert (await stream.snapshot()).sessions[0].ahead == 1
            revision = core.row(user=ME).revision
            core.scheduler.start(other)
            await core.tick()
            assert (await stream.change()).changed[0].ahead == 0
            assert core.row(user=ME).revision == revision

    asyncio.run(scenario())


def test_a_watch_shows_that_slurm_does_not_answer(directory: Path) -> None:
    async def scenario() -> None:
        scheduler = SilentScheduler()
        scheduler.silent = False
        core = Core.make(site_config(directory), FakeLauncher(scheduler))
        await core.ready(user=ME)
        await core.stopped("old", user=ME)
        async with serving(core) as path, Watching(path) as stream:
            await stream.snapshot()
            scheduler.silent = True
            await core.tick()
            stale = await stream.change()
            assert sorted(names(stale)) == ["dev", "old"]
            assert all(view.stale_since for view in stale.changed)
            scheduler.silent = False
            await core.tick()
            assert [view.stale_since for view in (await stream.change()).changed] == [None, None]

    asyncio.run(scenario())
