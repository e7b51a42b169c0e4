"""Metrics of requests: each route has its series, and no client can add one."""

from __future__ import annotations

import asyncio
import contextlib
import random
import string
from types import SimpleNamespace
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, generate_latest

from broker.controller.api import request_limits
from broker.controller.api.request_limits import RequestLimits
from broker.controller.metrics import LAUNCHER_OUTCOMES, OTHER, observe_launcher
from tests.component.controller.api.api_server import calling, make, raw, serving

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from starlette.types import Message, Receive, Scope, Send


def test_requests_are_counted_by_the_routes_pattern_and_not_by_what_was_asked_for(directory: Path) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path, calling(path) as client:
            await client.get("/v1/sessions/made-up-name")
            await client.get("/made/up/path")

    asyncio.run(scenario())
    told = generate_latest().decode()
    assert 'berth_http_requests_total{method="GET",path="/v1/sessions/{name}",status="404"}' in told
    assert 'berth_http_requests_total{method="GET",path="other",status="404"}' in told
    assert "made" not in told


ROUTE_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}


def series() -> set[tuple[str, ...]]:
    """The labels of each series of requests that there is."""
    return {
        (sample.name, *(f"{key}={value}" for key, value in sorted(sample.labels.items())))
        for family in REGISTRY.collect()
        if family.name.startswith("berth_http_request")
        for sample in family.samples
    }


def test_random_requests_add_no_series(directory: Path) -> None:
    generator = random.Random(5)  # noqa: S311 - the same requests each time
    words = ["".join(generator.choices(string.ascii_letters, k=12)) for _ in range(400)]

    async def scenario() -> None:
        core = make(directory)
        async with serving(core) as path:
            for word in words:
                target = generator.choice(["/v1/sessions", f"/{word}", f"/v1/sessions/{word.lower()}", "*"])
                head = f"{word} {target}?{word}={word} HTTP/1.1\r\nHost: {word}\r\n{word}: {word}\r\nConnection: close"
                assert b" 4" in (await raw(path, f"{head}\r\n\r\n".encode()))[:14]
            for method in ROUTE_METHODS | {"OPTIONS", "TRACE", "CONNECT", "get"}:
                await raw(path, f"{method} /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

    asyncio.run(scenario())
    told = series()
    labels = {label.partition("=")[::2] for each in told for label in each[1:]}
    assert {value for name, value in labels if name == "method"} <= ROUTE_METHODS | {OTHER}
    assert all(
        value == OTHER or value.startswith(("/v1/", "/openapi.json")) for name, value in labels if name == "path"
    )
    assert all(len(value) == 3 and value.isdigit() for name, value in labels if name == "status" and value != "0")
    assert not any(word.lower() in value.lower() for word in words for _, value in labels)


def test_outcomes_that_a_worker_invents_share_a_series() -> None:
    for number in range(100):
        observe_launcher("log", f"invented-{number}", 0.1)
    told = {
        sample.labels["outcome"]
        for family in REGISTRY.collect()
        if family.name == "berth_launcher_duration_seconds"
        for sample in family.samples
        if "outcome" in sample.labels
    }
    assert told <= LAUNCHER_OUTCOMES | {OTHER}


LONG_HEADS = {
    "method": b"M" * 60_000 + b" /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
    "short method": b"M" * 17 + b" /v1/health HTTP/1.1\r\nHost: x\r\n\r\n",
    "target": b"GET /" + b"t" * 60_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "query": b"GET /v1/health?" + b"t" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "header": b"GET /v1/health HTTP/1.1\r\nHost: x\r\nA: " + b"h" * 60_000 + b"\r\n\r\n",
    "number": b"GET /v1/health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 80 + b"\r\n",
    "all": b"GET /v1/health HTTP/1.1\r\nHost: x\r\n" + (b"A: " + b"h" * 8192 + b"\r\n") * 2 + b"\r\n",
}


def test_a_head_that_is_too_long_reaches_no_route(directory: Path) -> None:
    async def scenario() -> None:
        async with serving(make(directory)) as path:
            before = series()
            for what, head in LONG_HEADS.items():
                assert (await raw(path, head)).startswith(b"HTTP/1.1 400 "), what
            assert series() == before

    asyncio.run(scenario())


def test_the_time_of_a_stream_ends_where_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []
    now = 0.0

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal now
        del scope, receive
        now += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        now += 3600
        await send({"type": "http.response.body", "body": b""})

    async def ignore(_: Message) -> None:
        """Send to no client."""

    async def receive() -> Message:
        return {"type": "http.request"}

    monkeypatch.setattr(request_limits, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(request_limits, "observe_request", lambda *values: times.append(values[-1]))
    limits = RequestLimits(stream, contextlib.nullcontext, frozenset({"GET"}))
    scope = {"type": "http", "method": "GET", "headers": []}
    asyncio.run(limits(scope, receive, ignore))
    assert times == [1.0]
