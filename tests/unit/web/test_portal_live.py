"""The event streams of pages: one stream of the controller for all of them, which each ends with its login."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from broker.errors import ControllerUnavailableError, TooManyError
from broker.schema.sessions import SessionState
from broker.schema.web import WATCH_STREAMS_PATH, WATCHES_PATH, EndedVisits
from broker.web.portal import live_sessions, live_updates
from broker.web.portal.login_cookie import NAME
from tests.deadlines import DEADLINE_S
from tests.fakes.controller import view
from tests.fakes.portal_controller import BROWSER_ID, SECRET

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from broker.schema.sessions import SessionView
    from tests.fakes.portal_browser import PortalBrowser

BEGIN = "retry: 3000\n\n"
REFRESH = "event: refresh\ndata: -\n\n"
ENDED = "event: ended\ndata: -\n\n"
OTHER = "t" * 43
LOGGED_OUT = ("ended", {"logged_out": True})


class OpenPage:
    """A page's stream over ASGI: what it has sent so far."""

    def __init__(self, browser: PortalBrowser, secret: str, query: str = "") -> None:
        self.text = ""
        self.status = 0
        self._left = asyncio.Event()
        self._news = asyncio.Condition()
        self._scope = {
            "type": "http",
            "method": "GET",
            "path": "/events",
            "query_string": query.encode(),
            "headers": [(b"cookie", f"{NAME}={secret}".encode())],
        }
        self.task: asyncio.Task[None] = asyncio.create_task(browser.app(self._scope, self._receive, self._send))  # type: ignore[arg-type]

    async def says(self, text: str) -> None:
        """Wait until exactly this has come since the last call."""
        async with asyncio.timeout(DEADLINE_S), self._news:
            await self._news.wait_for(lambda: len(self.text) >= len(text))
            assert self.text == text
            self.text = ""

    async def leave(self) -> None:
        self._left.set()
        await self.task

    async def _receive(self) -> dict[str, object]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        async with self._news:
            self.status = message.get("status", self.status)
            self.text += message.get("body", b"").decode()
            self._news.notify_all()


def play(browser: PortalBrowser, scene: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(DEADLINE_S), browser.live:
            await scene()

    asyncio.run(whole())


def snapshot(*views: SessionView) -> tuple[str, dict[str, Any]]:
    return "sessions", {"revision": "1", "sessions": [each.model_dump(mode="json") for each in views]}


def change(*views: SessionView) -> tuple[str, dict[str, Any]]:
    changed = [each.model_dump(mode="json") for each in views]
    return "change", {"revision": "2", "changed": changed, "removed": []}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - the fake sets no Event
            await asyncio.sleep(0.005)


def test_all_pages_of_all_browsers_share_one_stream(browser: PortalBrowser) -> None:
    async def scene() -> None:
        controller = browser.controller
        controller.delegations.add(OTHER)
        pages = [OpenPage(browser, secret) for secret in (SECRET, SECRET, OTHER)]
        await until(lambda: len(controller.watches) == 2)
        assert controller.streams == 1
        controller.events.put_nowait(snapshot(view("dev")))
        for page in pages:
            await page.says(BEGIN + REFRESH)
        controller.events.put_nowait(change(view("dev", SessionState.QUEUED)))
        for page in pages:
            await page.says(f"event: announce\ndata: dev: queued\n\n{REFRESH}")
        late = OpenPage(browser, SECRET)
        await late.says(BEGIN + REFRESH)
        assert len(controller.watches) == 2
        for page in (*pages, late):
            await page.leave()
        assert browser.live.pages == 0

    play(browser, scene)


def test_events_of_one_browser_reach_no_other(browser: PortalBrowser) -> None:
    async def scene() -> None:
        controller = browser.controller
        controller.delegations.add(OTHER)
        first = OpenPage(browser, SECRET)
        await until(lambda: len(controller.watches) == 1)
        second = OpenPage(browser, OTHER)
        await until(lambda: len(controller.watches) == 2)
        controller.watches.pop()  # the fake sends to those in the list
        controller.events.put_nowait(snapshot(view("dev")))
        await first.says(BEGIN + REFRESH)
        assert second.text == BEGIN

    play(browser, scene)


def test_page_ends_with_its_login_and_others_stay(browser: PortalBrowser) -> None:
    async def scene() -> None:
        controller = browser.controller
        controller.delegations.add(OTHER)
        first = OpenPage(browser, SECRET)
        await until(lambda: controller.watches)
        other = OpenPage(browser, OTHER)
        await until(lambda: len(controller.watches) == 2)
        stays = controller.watches.pop()  # the fake sends to those in the list
        controller.events.put_nowait(LOGGED_OUT)
        await first.says(BEGIN + ENDED)
        await first.task
        controller.watches[:] = [stays]
        controller.events.put_nowait(snapshot(view("dev")))
        await other.says(BEGIN + REFRESH)

    play(browser, scene)


def test_logout_ends_pages_before_it_is_answered(browser: PortalBrowser) -> None:
    async def scene() -> None:
        page = OpenPage(browser, SECRET)
        await until(lambda: browser.controller.watches)
        await until(lambda: browser.live.pages)
        browser.live.end(EndedVisits(delegation_ids=[BROWSER_ID[:-1] + "1"]))
        assert browser.live.pages == 1
        browser.live.end(EndedVisits(delegation_ids=[BROWSER_ID]))
        browser.controller.events.put_nowait(snapshot(view("dev")))
        await page.says(BEGIN + ENDED)
        await page.task

    play(browser, scene)


def test_page_of_a_browser_that_is_not_logged_in_ends(browser: PortalBrowser) -> None:
    async def scene() -> None:
        browser.controller.delegations.clear()
        await OpenPage(browser, SECRET).says(BEGIN + ENDED)

    play(browser, scene)


def test_stream_without_login_is_refused(browser: PortalBrowser) -> None:
    browser.cookie = ""
    assert browser.get("/events").status_code == 401


def test_pages_outlive_the_controller(browser: PortalBrowser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_sessions, "RETRY_S", 0.01)

    async def scene() -> None:
        controller = browser.controller
        controller.failures[("POST", WATCH_STREAMS_PATH)] = ControllerUnavailableError("no answer")
        page = OpenPage(browser, SECRET)
        await page.says(BEGIN)
        controller.failures.clear()
        await until(lambda: controller.watches)
        controller.events.put_nowait(snapshot(view("dev")))
        await page.says(REFRESH)
        controller.events.put_nowait(None)
        await until(lambda: not controller.streams)
        await until(lambda: controller.watches)
        controller.events.put_nowait(snapshot(view("dev", SessionState.QUEUED)))
        await page.says(f"event: announce\ndata: dev: queued\n\n{REFRESH}")

    play(browser, scene)


def test_refused_watch_is_repeated(browser: PortalBrowser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_sessions, "RETRY_S", 0.01)

    async def scene() -> None:
        controller = browser.controller
        controller.failures[("POST", WATCHES_PATH)] = TooManyError("too many watches")
        page = OpenPage(browser, SECRET)
        await until(lambda: controller.watch_calls)
        controller.failures.clear()
        await until(lambda: controller.watches)
        controller.events.put_nowait(("ended", {"logged_out": False}))  # such as after an error of the registry
        controller.events.put_nowait(None)
        await until(lambda: not controller.streams)
        await until(lambda: controller.watches)
        controller.events.put_nowait(snapshot(view("dev")))
        await page.says(BEGIN + REFRESH)

    play(browser, scene)


def test_invalid_event_changes_nothing(browser: PortalBrowser) -> None:
    async def scene() -> None:
        page = OpenPage(browser, SECRET)
        browser.controller.events.put_nowait(("change", {"changed": [{"name": 1}]}))
        browser.controller.events.put_nowait(snapshot(view("dev")))
        await page.says(BEGIN + REFRESH)

    play(browser, scene)


def test_quiet_page_gets_signs_of_life(browser: PortalBrowser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_updates, "HEARTBEAT_S", 0.01)

    async def scene() -> None:
        await OpenPage(browser, SECRET).says(f"{BEGIN}:\n\n")

    play(browser, scene)


def test_announcement_is_one_line_without_controls(browser: PortalBrowser) -> None:
    async def scene() -> None:
        page = OpenPage(browser, SECRET)
        browser.controller.events.put_nowait(snapshot())
        await page.says(BEGIN + REFRESH)
        browser.controller.events.put_nowait(
            change(view("dev", SessionState.FAILED, reason="one\n\nevent: ended\u202e"))
        )
        await page.says(f"event: announce\ndata: dev: failed: one\\n\\nevent: ended\\u202e\n\n{REFRESH}")

    play(browser, scene)


def test_stream_ends_when_no_page_needs_it(browser: PortalBrowser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_sessions, "LINGER_S", 0.01)

    async def scene() -> None:
        controller = browser.controller
        page = OpenPage(browser, SECRET)
        controller.events.put_nowait(snapshot(view("dev")))
        await page.says(BEGIN + REFRESH)
        await page.leave()
        await until(lambda: controller.watch_calls[-1][0] == "DELETE")
        assert not controller.watches
        assert controller.streams == 1
        controller.watches.append("of a browser that is gone")
        controller.events.put_nowait(snapshot())  # the next event, or heartbeat
        await until(lambda: not controller.streams)
        again = OpenPage(browser, SECRET)
        await until(lambda: controller.watches)
        controller.events.put_nowait(snapshot(view("dev")))
        await again.says(BEGIN + REFRESH)

    play(browser, scene)
