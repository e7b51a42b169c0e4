"""Calls that wait: a change, the caller's end and the controller's end complete them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING

import pytest

from broker.client.client import Client
from broker.controller.api import protocol
from broker.names import new_id
from broker.schema.base import ErrorBody
from broker.schema.environments import EnvironmentRequest, EnvironmentView
from tests.component.controller.api.api_server import ME, calling, calls_under_way, make, refusal, serving, waiting_for
from tests.deadlines import DEADLINE_S
from tests.fakes.gateway_world import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.controller.registry.models import Session


def test_a_waiting_call_is_woken_by_the_change(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        async with serving(core) as path, calling(path) as client:
            revision = (await client.get("/v1/sessions/dev")).json()["revision"]
            waiting = asyncio.create_task(client.get(f"/v1/sessions/dev?after={revision}&wait=50", timeout=60))
            unchanged = await client.get(f"/v1/sessions/dev?after={revision}&wait=0.05")
            assert unchanged.json()["revision"] == revision
            assert not waiting.done()
            stopped = await client.post("/v1/sessions/dev/stop")
            assert stopped.status_code == 202
            woken = (await asyncio.wait_for(waiting, 45)).json()
            assert (woken["state"], woken["revision"] > revision) == ("stopping", True)

    asyncio.run(scenario())


HELD: dict[str, Callable[[Session], tuple[str, str, object]]] = {
    "show": lambda now: ("GET", f"/v1/sessions/dev?after={now.revision}&wait=300", None),
    "resolve": lambda _: ("POST", "/v1/resolve", {"user": ME, "target": "dev", "waited": 1}),
    "gateway wait": lambda now: ("POST", "/v1/gateway/wait", waiting_for(now.id, now.revision)),
}
"""Calls that wait until something happens to the session `dev`."""


def held(call: str, now: Session) -> bytes:
    """Return such a call as it goes over the socket."""
    method, target, content = HELD[call](now)
    body = "" if content is None else json.dumps(content)
    head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(("call", "status"), [("show", 200), ("resolve", 504), ("gateway wait", 200)])
def test_a_call_that_waits_is_answered_when_the_controller_stops(
    directory: Path, caplog: pytest.LogCaptureFixture, call: str, status: int
) -> None:
    async def scenario() -> None:
        core = make(directory, ssh={"connect_wait": 3600.0})
        await core.start(user=ME)
        await core.tick()
        now = core.row(user=ME)
        async with serving(core) as path:
            lines = [await asyncio.open_unix_connection(path) for _ in range(3)]
            for _, writer in lines:
                writer.write(held(call, now))
            await until(lambda: calls_under_way() == 3)
        for reader, writer in lines:
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.split()[1] == b"%d" % status
            answer = json.loads(body)
            if call == "show":
                assert answer["revision"] == now.revision
            elif call == "resolve":
                assert "starting" in answer["message"] or "queued" in answer["message"]
            else:
                assert answer == {"changed": []}
            writer.close()

    asyncio.run(scenario())
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_call_that_outlasts_a_stop_is_told_so(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        core = make(directory)
        await core.start(user=ME)
        monkeypatch.setattr(core.launcher, "log", hang)
        async with serving(core) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /v1/sessions/dev/log HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: calls_under_way() == 1)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.split()[1] == b"502"
        said = ErrorBody.model_validate_json(body)
        assert said.reason == "controller-unavailable"
        assert "stopped before the request was complete" in said.message
        writer.close()

    monkeypatch.setattr(protocol, "STOP_TIMEOUT_S", 1)
    asyncio.run(scenario())
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("call", HELD)
def test_a_call_that_waits_ends_when_its_caller_leaves(directory: Path, call: str) -> None:
    async def scenario() -> None:
        core = make(directory, ssh={"connect_wait": 3600.0})
        await core.start(user=ME)
        await core.tick()
        now = core.row(user=ME)
        async with serving(core) as path:
            writers = []
            for _ in range(20):
                _, writer = await asyncio.open_unix_connection(path)
                writer.write(held(call, now))
                writers.append(writer)
            await until(lambda: calls_under_way() == 20)
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            await until(lambda: calls_under_way() == 0, within=15)  # the shortest of these waits takes 20 s by itself
        assert core.row(user=ME) == now

    asyncio.run(scenario())


def test_the_gateway_waits_for_many_sessions_with_one_question(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        for name in ("one", "two", "three"):
            await core.start(name, ME)
        await core.tick()
        known = {name: core.row(name, ME) for name in ("one", "two", "three")}
        asked = {"sessions": [{"session_id": row.id, "revision": row.revision} for row in known.values()]}
        async with serving(core) as path, calling(path) as client:
            nothing = await client.post("/v1/gateway/wait", json=asked | {"seconds": 0.05})
            assert nothing.json() == {"changed": []}
            waiting = asyncio.create_task(client.post("/v1/gateway/wait", json=asked | {"seconds": 60}, timeout=60))
            await client.post("/v1/sessions/two/stop")
            assert (await waiting).json() == {"changed": [known["two"].id]}
            again = await client.post("/v1/gateway/wait", json=asked | {"seconds": 60})
            assert again.json() == {"changed": [known["two"].id]}, "what has changed before is told at once"
            unknown = await client.post("/v1/gateway/wait", json=waiting_for(new_id(), 0))
            assert len(unknown.json()["changed"]) == 1
            nonsense = [waiting_for("../x", 0), waiting_for(new_id(), 0, 1e9), {"sessions": [], "seconds": 1}]
            for wrong in nonsense:
                assert (await client.post("/v1/gateway/wait", json=wrong)).status_code == 422

    asyncio.run(scenario())


def test_a_question_that_is_not_held_says_what_to_wait_for(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory, ssh={"connect_wait": 12.0})
        await core.start(user=ME)
        await core.tick()
        now = core.row(user=ME)
        question = {"user": ME, "target": "dev"}
        async with serving(core) as path, calling(path) as client:
            told = refusal(await client.post("/v1/resolve", json=question | {"hold": False, "waited": 2}))
            assert told.waiting is not None
            assert (told.reason, told.waiting.session_id, told.waiting.revision) == ("waiting", now.id, now.revision)
            assert 9 < told.waiting.seconds <= 10
            over = await client.post("/v1/resolve", json=question | {"hold": False, "waited": 12})
            assert over.json().keys() == {"reason", "message", "hint"}, "a gateway of before knows no more"
            assert over.json()["reason"] == "conflict"

    asyncio.run(scenario())


def test_environment_of_a_caller_that_left_is_removed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C in `berth sbatch --env`, no job is submitted in it."""

    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        begun, go, made = asyncio.Event(), asyncio.Event(), asyncio.Event()
        original, discard = core.environments.make, core.environments.discard

        async def slow(user: str, request: EnvironmentRequest) -> EnvironmentView:
            begun.set()
            await go.wait()
            return await original(user, request)

        async def discarded(user: str, environment_id: str) -> list[EnvironmentView]:
            gone = await discard(user, environment_id)
            made.set()
            return gone

        monkeypatch.setattr(core.environments, "make", slow)
        monkeypatch.setattr(core.environments, "discard", discarded)
        async with serving(core) as path:
            _, writer = await asyncio.open_unix_connection(path)
            body = b'{"of": "dev"}'
            head = "POST /v1/environments HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await asyncio.wait_for(begun.wait(), DEADLINE_S)
            writer.close()
            await writer.wait_closed()
            await asyncio.to_thread(Client(path).site)
            go.set()
            await asyncio.wait_for(made.wait(), DEADLINE_S)
            assert await core.environments.all(ME) == []
            monkeypatch.undo()
            kept = await asyncio.to_thread(Client(path).make_environment, EnvironmentRequest(of="dev"))
            assert [each.id for each in await core.environments.all(ME)] == [kept.id]

    asyncio.run(scenario())


def test_the_server_ends_although_somebody_waits(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.ready(user=ME)
        async with serving(core) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /v1/sessions/dev?after=1000&wait=300 HTTP/1.1\r\nHost: x\r\n\r\n")
            await writer.drain()
            await asyncio.to_thread(Client(path).site)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), DEADLINE_S)
        writer.close()

    asyncio.run(scenario())
