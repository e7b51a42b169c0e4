"""Wrong requests, bugs and failed operations are answered with the one body and their own status."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from pydantic import BaseModel, ValidationError

from broker.controller.api.app import application
from broker.controller.api.request_limits import MAX_BODY_BYTES
from broker.schema.connections import ConnectionReport
from broker.schema.sessions import Persistence, ResizeRequest, SessionState, SessionView, StartRequest
from tests.component.controller.api.api_server import (
    ME,
    calling,
    make,
    refusal,
    services,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "words"),
    [
        ("GET", "/v1/nothing", None, 404, "/v1/nothing"),
        ("PUT", "/v1/sessions", None, 405, "PUT"),
        ("GET", "/v1/sessions/Not-A-Name", None, 422, "name"),
        ("GET", "/v1/sessions/" + "a" * 40, None, 422, "name"),
        ("GET", "/v1/sessions/..%2f..%2fetc", None, 404, ""),
        ("GET", "/v1/sessions/none", None, 404, "none"),
        ("GET", "/v1/sessions/dev?after=-1", None, 422, "after"),
        ("GET", "/v1/sessions/dev?wait=1e9", None, 422, "wait"),
        ("GET", "/v1/sessions/dev?wait=nan", None, 422, "wait"),
        ("GET", "/v1/sessions/dev/log?bytes=0", None, 422, "bytes"),
        ("POST", "/v1/sessions/dev/start", "{", 422, "the request"),
        ("POST", "/v1/sessions/dev/start", "[]", 422, "the request"),
        ("POST", "/v1/sessions/dev/start", '{"profil": "base"}', 422, "profil"),
        ("POST", "/v1/sessions/dev/start", '{"profile": "../base"}', 422, "profile"),
        ("POST", "/v1/sessions/dev/start", '{"profile": "base", "options": ["--wrap=id"]}', 422, "wrap"),
        ("POST", "/v1/sessions/dev/start", '{"profile": "base", "options": [7]}', 422, "options"),
        ("POST", "/v1/sessions/dev/start", '{"profile": "none"}', 404, "none"),
        ("POST", "/v1/keys", '{"public_key": "no key"}', 422, "key"),
        ("POST", "/v1/resolve", '{"user": "root"}', 422, "target"),
        ("DELETE", "/v1/keys/SHA256:none", None, 404, "SHA256:none"),
        ("POST", "/v1/sessions/dev/snapshots", '{"label": "7"}', 422, "label"),
        ("POST", "/v1/sessions/dev/rollback", '{"snapshot": "0"}', 422, "snapshot"),
        ("DELETE", "/v1/sessions/dev/snapshots/0", None, 422, "reference"),
        ("GET", "/v1/sessions/dev/diff?from=/", None, 422, "from"),
        ("GET", "/v1/sessions/dev/diff?content=perhaps", None, 422, "content"),
        ("POST", "/v1/sessions/dev/clone", '{"name": "Two"}', 422, "name"),
        ("POST", "/v1/sessions/dev/switch", '{"profile": "none"}', 404, "dev"),
        ("POST", "/v1/sessions/dev/start", '{"persistence": {"keep": ["/a/../b"]}}', 422, "persistence"),
        ("POST", "/v1/deleted/dev/restore", "{}", 404, "dev"),
    ],
)
def test_what_is_wrong_is_refused_at_the_edge_with_the_one_body(  # noqa: PLR0917 - the columns of the table above
    directory: Path, method: str, path: str, content: str | None, status: int, words: str
) -> None:
    async def scenario() -> None:
        core = make(directory)
        async with serving(core) as socket_path, calling(socket_path) as client:
            headers = {"Content-Type": "application/json"}
            response = await client.request(method, path, content=content, headers=headers)
            assert response.status_code == status
            assert words in refusal(response).message
        assert core.launcher.submissions() == 0

    asyncio.run(scenario())


def test_a_body_that_is_too_large_or_of_unknown_length_is_not_read(directory: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"{}"

    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            large = await client.post("/v1/keys", content=b" " * (MAX_BODY_BYTES + 1))
            assert str(MAX_BODY_BYTES) in refusal(large).message
            assert "Content-Length" in refusal(await client.post("/v1/keys", content=chunks())).message
            fitting = json.dumps({"public_key": "x"}).encode().ljust(MAX_BODY_BYTES)
            json_body = {"Content-Type": "application/json"}
            assert "key" in refusal(await client.post("/v1/keys", content=fitting, headers=json_body)).message

    asyncio.run(scenario())


def test_a_bug_is_an_answer_too_and_tells_nothing_of_the_inside(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        core = make(directory)

        async def fail(_: str) -> list[SessionView]:
            raise RuntimeError("a secret of the inside")

        monkeypatch.setattr(core.sessions, "all", fail)
        async with serving(core) as path, calling(path) as client:
            response = await client.get("/v1/sessions")
            assert response.status_code == 500
            assert "secret" not in response.text
            assert refusal(response).hint

    asyncio.run(scenario())


STREAMS = {"/v1/sessions/watch", "/v1/web/streams"}


def test_the_document_describes_every_answer_and_every_failure(directory: Path) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            document = (await client.get("/openapi.json")).json()
        for target, methods in document["paths"].items():
            for method, call in methods.items():
                failures = {
                    call["responses"][key]["content"]["application/json"]["schema"]["$ref"]
                    for key in ("422", "default")
                }
                assert failures == {"#/components/schemas/ErrorBody"}, (method, target)
                answer = next(value for key, value in call["responses"].items() if key.startswith("2"))
                kind = "text/event-stream" if target in STREAMS else "application/json"
                assert answer["content"][kind]["schema"], (method, target)

    asyncio.run(scenario())


def test_a_failed_operation_is_the_answer_with_its_own_status(directory: Path) -> None:
    async def scenario() -> None:
        core = make(directory)
        await core.stopped(user=ME)
        core.launcher.volumes.full = True
        async with serving(core) as path, calling(path) as client:
            answer = await client.post("/v1/sessions/dev/snapshots", json={})
            assert answer.status_code == 507
            body = refusal(answer)
            assert (body.reason, "berth gc" in body.hint) == ("no-space", True)
            shown = SessionView.model_validate((await client.get("/v1/sessions/dev")).json())
            assert shown.operation is not None
            assert (shown.state, shown.operation.status) == (SessionState.STOPPED, "failed")

    asyncio.run(scenario())


def test_every_list_in_a_request_has_a_bound(directory: Path) -> None:
    document = application(services(make(directory))).openapi()
    parts = document["components"]["schemas"]
    bodies = [
        call["requestBody"]["content"]["application/json"]["schema"]
        for methods in document["paths"].values()
        for call in methods.values()
        if "requestBody" in call
    ]
    assert len(bodies) >= 15
    checked: set[str] = set()

    def check(part: object, where: str) -> None:
        if isinstance(part, list):
            for each in part:
                check(each, where)
        elif isinstance(part, dict):
            assert part.get("type") != "array" or "maxItems" in part, where
            assert not part.get("additionalProperties"), where
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in checked:
                checked.add(name)
                check(parts[name], name)
            for key, each in part.items():
                check(each, f"{where}.{key}")

    check(bodies, "")
    assert {"StartRequest", "Persistence", "ConnectionRecord"} <= checked


@pytest.mark.parametrize(
    ("model", "values"),
    [
        (StartRequest, {"options": [1] * 100_000}),
        (StartRequest, {"defaults": [None] * 100_000}),
        (ResizeRequest, {"options": [1] * 100_000}),
        (Persistence, {"keep": ["x"] * 100_000}),
        (Persistence, {"fresh": [""] * 100_000}),
        (ConnectionReport, {"connections": [{}] * 100_000}),
    ],
)
def test_a_list_of_faults_is_one_fault(model: type[BaseModel], values: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(values)
    assert caught.value.error_count() < 20


def test_an_upgrade_is_an_ordinary_request_without_a_log_line(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
            assert (await client.get("/v1/health", headers=headers)).status_code == 200

    asyncio.run(scenario())
    assert "upgrade" not in caplog.text.lower()
