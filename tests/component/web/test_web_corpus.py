"""Hostile requests, as bytes and as frames: none reaches a service but as a plain request, whatever HAProxy it is."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.component.web.http2 import PING, connect_http2, header_block, http2_frame, http2_request
from tests.deadlines import DEADLINE_S
from tests.fakes.haproxy_release import RELEASES
from tests.fakes.raw_http import request
from tests.fakes.web_world import OWN_PAGE, Entered, WebWorld, play_web

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
REQUESTS = yaml.safe_load((HERE / "hostile_requests.yaml").read_text())
STREAMS = yaml.safe_load((HERE / "hostile_streams.yaml").read_text())
FORBIDDEN = (b"__host-http-berth", b"10.0.0.1", b"x-remote-user", b"x_")
"""Text that no head of a request has at a service, nor its trailers."""


def test_corpus_has_names_and_expectations() -> None:
    for corpus in (REQUESTS, STREAMS):
        assert len(corpus) == len({case["name"] for case in corpus}) > 100
        for case in corpus:
            assert (200 in _statuses(case)) == ("arrives" in case) or case.get("may_begin"), case["name"]


@pytest.mark.parametrize("haproxy", RELEASES, indirect=True)
def test_hostile_requests_are_refused_or_made_plain(haproxy: str) -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wrong = []
        for case in REQUESTS:
            del world.echo.heads[:], world.echo.trailers[:]
            status = await _answer(world, browser, _fill(world, browser, _raw(case)))
            wrong += _faults(world, browser, case, status, haproxy)
        assert not wrong, "\n".join(map(repr, wrong))
        assert (await world.get(browser)).status == 200

    play_web(scene)


@pytest.mark.parametrize("haproxy", RELEASES, indirect=True)
def test_hostile_streams_are_refused_or_made_plain(haproxy: str) -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wrong = []
        for case in STREAMS:
            del world.echo.heads[:], world.echo.trailers[:]
            status = await _outcome(world, browser, case)
            h2 = await connect_http2(world, browser)
            ours = ("cookie", f"__Host-Http-berth={browser.cookie}")
            last = http2_request(world, browser, "GET", "/last", ours, ("sec-fetch-site", "same-origin"))
            assert await h2.status(await h2.send(last)) == 200, case["name"]
            wrong += _faults(world, browser, case, status, haproxy)
        assert not wrong, "\n".join(map(repr, wrong))

    play_web(scene, tls=True)


def _faults(world: WebWorld, browser: Entered, case: dict[str, Any], status: int | None, haproxy: str) -> list[object]:
    """Return the case's name, the answer, and the bytes that arrived at the service; nothing if all is right."""
    heads = [head for head in world.echo.heads if not head.startswith(b"GET /last ")]
    trailers = list(world.echo.trailers)
    may_have = _release(haproxy) < _release(case.get("trailers_pass_before", "0"))
    everything = b"".join([*heads, *([] if may_have else trailers)]).lower()
    scheme = world.settings.origins.scheme
    usual = [
        f"host: {world.authority(browser.host)}",
        "x-forwarded-for: 127.0.0.1",
        f"x-forwarded-proto: {scheme}",
    ]
    path = str(_fill(world, browser, case.get("path", "/a")), "latin-1")
    arrived = [sorted(_plain(head)) for head in heads]
    own = ["sec-fetch-site: same-origin"] if "raw" not in case and scheme == "https" else []
    lines = [str(_fill(world, browser, line), "latin-1") for line in case.get("arrives", [])]
    expected = [sorted([path, *usual, *own, *lines, *_origin(world, browser, case)])]
    reached = expected if status == 200 else []
    begins = case.get("may_begin") and all(head.startswith((b"GET /a ", b"POST /a ")) for head in heads)
    fits = (
        status in _statuses(case)
        and (arrived == reached or begins)
        and not any(text in everything for text in FORBIDDEN)
    )
    return [] if fits else [(case["name"], status, heads, trailers)]


def _release(number: str) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split("."))


def _plain(head: bytes) -> list[str]:
    """The path and the headers. The case of two values does not count."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    free = ("host:", "transfer-encoding:")
    return [first.split(" ")[1], *(line.lower() if line.startswith(free) else line for line in lines)]


def _origin(world: WebWorld, browser: Entered, case: dict[str, Any]) -> list[str]:
    has_one = "post" in case or ("raw" in case and "Origin: {origin}\r\n" in case["raw"])
    return [f"origin: {world.origin(browser.host)}"] if has_one else []


def _statuses(case: dict[str, Any]) -> list[int | None]:
    """The statuses that are right. A connection may also be reset before a refusal was read."""
    listed = case["status"] if isinstance(case["status"], list) else [case["status"]]
    statuses = [None if each == "none" else each for each in listed]
    return [*statuses, 0] if 400 in statuses else statuses


def _raw(case: dict[str, Any]) -> str:
    """The bytes of a request, with placeholders."""
    if "raw" in case:
        return str(case["raw"])
    method = "POST" if "post" in case else "GET"
    origin = "Origin: {origin}\r\n" if "post" in case else ""
    headers = case.get("post", case.get("get"))
    return (
        f"{method} /a HTTP/1.1\r\nHost: {{host}}\r\nCookie: {{cookie}}\r\n{origin}{headers}\r\n{case.get('body', '')}"
    )


def _fill(world: WebWorld, browser: Entered, raw: str) -> bytes:
    cookie = f"__Host-Http-berth={browser.cookie}"
    values = {
        "{host}": world.authority(browser.host),
        "{HOST}": world.authority(browser.host).upper(),
        "{cookie}": cookie,
        "{COOKIE}": cookie.replace("__Host-Http-berth", "__HOST-HTTP-BERTH"),
        "{name}": "__Host-Http-berth",
        "{value}": browser.cookie,
        "{origin}": world.origin(browser.host),
        "{long}": "x" * 65536,
        "{many}": "".join(f"X-{number}: a\r\n" for number in range(200)),
    }
    for name, value in values.items():
        raw = raw.replace(name, value)
    return raw.encode("latin-1")


async def _answer(world: WebWorld, browser: Entered, data: bytes) -> int:
    """The status of the first answer, when another request on the same connection has its answer, or it is closed."""
    wire = await world.wire()
    last = request("GET", "/last", world.authority(browser.host), OWN_PAGE | world.cookie(browser))
    received = b""
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):  # refused while it was sent
            await wire.send(data + last)
        with contextlib.suppress(ConnectionError):
            while b"GET /last " not in received and (some := await wire.reader.read(65536)):
                received += some
    return int(received.split(b" ", 2)[1]) if received.startswith(b"HTTP/1.") else 0


async def _outcome(world: WebWorld, browser: Entered, case: dict[str, Any]) -> int | None:
    h2 = await connect_http2(world, browser)
    fill: Callable[[str], str] = lambda text: str(_fill(world, browser, text), "latin-1")  # noqa: E731 - a short name
    ours, page = ("cookie", fill("{cookie}")), ("sec-fetch-site", "same-origin")
    if "frames" in case:
        block = header_block(http2_request(world, browser, "GET", "/a", ours, page))
        frames = [
            http2_frame(kind, flags, stream, block if content == "block" else bytes.fromhex(content[1:-1]))
            for kind, flags, stream, content in case["frames"]
        ]
        stream = 1
        await h2.wire.send(b"".join(frames))
    else:
        headers = _headers(case, fill)
        if "headers" not in case:
            origin = [("origin", fill("{origin}"))] if "post" in case else []
            headers = http2_request(world, browser, "POST" if "post" in case else "GET", "/a", ours, page, *origin) + (
                headers
            )
        trailers = [(fill(name), fill(value)) for name, value in case.get("trailers", [])]
        stream = await h2.send(headers, data=_fill(world, browser, case.get("data", "")), trailers=trailers)
    if None in _statuses(case):
        await h2.wire.send(http2_frame(PING, 0, 0, b"are here"))
    status = await h2.outcome(stream)
    h2.wire.close()
    return status


def _headers(case: dict[str, Any], fill: Callable[[str], str]) -> list[tuple[str, str]]:
    listed = next(case[kind] for kind in ("headers", "get", "post") if kind in case)
    if listed == "{many}":
        return [(f"x-{number}", "a") for number in range(200)]
    if listed == "{large}":
        return [(f"x-{number}", "a" * 4096) for number in range(10)]
    return [(fill(name), fill(value)) for name, value in listed]
