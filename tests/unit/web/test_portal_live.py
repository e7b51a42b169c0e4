"""The event stream of a page: what it announces, and how it ends."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from broker.errors import BerthError, ControllerUnavailableError, LoggedOutError, TooManyError
from broker.schema.sessions import SessionState
from broker.schema.watch import WATCH_PATH
from broker.web.portal.live_updates import SessionChanges
from tests.deadlines import DEADLINE_S
from tests.fakes.controller import view

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView
    from tests.fakes.portal_browser import PortalBrowser

REFRESH = "event: refresh\ndata: -\n\n"
ENDPOINT = {"node": "c1", "port": 2222, "fingerprint": "SHA256:x"}


def _snapshot(*views: SessionView) -> str:
    return json.dumps({"revision": "1", "sessions": [each.model_dump(mode="json") for each in views]})


def _change(*views: SessionView, removed: tuple[str, ...] = ()) -> str:
    changed = [each.model_dump(mode="json") for each in views]
    return json.dumps({"revision": "2", "changed": changed, "removed": list(removed)})


def _events(changes: SessionChanges, kind: str, data: str) -> list[str]:
    return list(changes.events(kind, data))


def test_first_state_refreshes_and_announces_nothing() -> None:
    assert _events(SessionChanges(), "sessions", _snapshot(view("dev"))) == [REFRESH]


def test_new_state_is_announced_once() -> None:
    changes = SessionChanges()
    _events(changes, "sessions", _snapshot(view("dev", SessionState.STARTING)))
    ready = view("dev", SessionState.READY, endpoint=ENDPOINT)
    assert _events(changes, "change", _change(ready)) == ["event: announce\ndata: dev: ready on c1\n\n", REFRESH]
    assert _events(changes, "change", _change(ready.model_copy(update={"used_at": 5.0}))) == [REFRESH]


def test_new_and_removed_sessions_are_announced() -> None:
    changes = SessionChanges()
    _events(changes, "sessions", _snapshot())
    events = _events(changes, "change", _change(view("dev")))
    assert events == ["event: announce\ndata: dev: stopped\n\n", REFRESH]
    events = _events(changes, "change", _change(removed=(view("dev").id, "unknown")))
    assert events == ["event: announce\ndata: dev is deleted\n\n", REFRESH]


def test_page_of_one_session_hears_of_no_other() -> None:
    changes = SessionChanges("dev")
    _events(changes, "sessions", _snapshot(view("dev"), view("other")))
    assert _events(changes, "change", _change(view("other", SessionState.QUEUED))) == []
    assert _events(changes, "change", _change(removed=(view("other").id,))) == []
    assert len(_events(changes, "change", _change(view("dev", SessionState.QUEUED)))) == 2


def test_announcement_is_one_line_without_controls() -> None:
    changes = SessionChanges()
    failed = view("dev", SessionState.FAILED, reason="one\n\nevent: ended\u202e")
    announced, _ = _events(changes, "change", _change(failed))
    assert announced == "event: announce\ndata: dev: failed: one\\n\\nevent: ended\\u202e\n\n"


def test_unknown_event_of_later_controller_is_ignored() -> None:
    assert _events(SessionChanges(), "later", "{}") == []


def _stream(browser: PortalBrowser, *chunks: bytes, path: str = "/events") -> str:
    """Return all that a stream sends until the controller ends it."""

    async def read() -> str:
        browser.controller.events = asyncio.Queue()
        for chunk in (*chunks, b""):
            browser.controller.events.put_nowait(chunk)
        async with asyncio.timeout(DEADLINE_S):
            return (await browser._send("GET", path, {}, "")).text

    return asyncio.run(read())


def test_stream_passes_events_in_any_chunks_and_heartbeats(browser: PortalBrowser) -> None:
    text = f"event: sessions\ndata: {_snapshot(view('dev'))}\n\n:\n\n".encode()
    text += f"event: change\ndata: {_change(view('dev', SessionState.QUEUED))}\n\n".encode()
    sent = _stream(browser, *(text[at : at + 7] for at in range(0, len(text), 7)))
    assert sent == f"retry: 3000\n\n{REFRESH}:\n\nevent: announce\ndata: dev: queued\n\n{REFRESH}"
    assert browser.controller.streams == 0


def test_stream_without_login_is_refused(browser: PortalBrowser) -> None:
    browser.cookie = ""
    assert browser.get("/events").status_code == 401


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (LoggedOutError("this browser is not logged in"), "event: ended\ndata: -\n\n"),
        (ControllerUnavailableError("no answer"), ""),
        (TooManyError("too many watches"), ""),
    ],
)
def test_failed_stream_ends_and_says_if_login_has_ended(browser: PortalBrowser, failure: BerthError, end: str) -> None:
    browser.controller.failures[("GET", WATCH_PATH)] = failure
    assert _stream(browser) == f"retry: 3000\n\n{end}"


def test_invalid_event_ends_stream(browser: PortalBrowser) -> None:
    assert _stream(browser, b"event: change\ndata: {\n\n", b":\n\n") == "retry: 3000\n\n"


def test_browser_that_leaves_ends_stream_at_controller(browser: PortalBrowser) -> None:
    async def leave() -> None:
        sent: list[str] = []
        left = asyncio.Event()

        async def receive() -> dict[str, object]:
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            sent.append(str(message["type"]))
            if browser.controller.streams:
                left.set()

        browser.controller.events = asyncio.Queue()
        browser.controller.events.put_nowait(b":\n\n")
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/events",
            "query_string": b"",
            "headers": [(b"cookie", browser.cookie.encode())],
        }
        async with asyncio.timeout(DEADLINE_S):
            await browser.app(scope, receive, send)  # type: ignore[arg-type]
        assert browser.controller.streams == 0

    asyncio.run(leave())
