"""The portal in Chromium: accessibility, the keyboard, live updates, and the browser without scripts."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from broker.schema.sessions import SessionState
from broker.web.portal.login_cookie import NAME
from tests.chromium import DEADLINE_MS, chromium_program, running_chromium
from tests.component.web.portal_server import PortalServer, serving_portal
from tests.fakes.controller import view
from tests.fakes.portal_controller import SECRET, SESSION_ID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import SessionView

PAGES = [
    "/",
    "/sessions/dev",
    "/sessions/train",
    "/sessions/dev/snapshots",
    "/sessions/dev/history",
    "/sessions/dev/log",
    "/sessions/dev/stop",
    "/sessions/dev/clone",
    "/sessions/dev/switch",
    "/start",
    "/cluster",
    "/keys",
    "/browsers",
    "/login",
    "/login/oidc/callback",
    "/nothing",
]
LOOKS = {"light": ("light", 1100), "dark": ("dark", 1100), "narrow": ("light", 320)}
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
AXE = (files("axe_playwright_python") / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with running_chromium(chromium_program()) as browser:
        yield browser


@pytest.fixture
def portal() -> Iterator[PortalServer]:
    with serving_portal() as server:
        server.controller.add("dev", options=["--gres=gpu:intel:1"])
        shared = {"session": "carol.lab", "service": "board", "host": "board--lab--carol.localhost", "via": "@devs"}
        server.controller.shared = [shared | {"is_open": True}, shared | {"service": "notes", "is_open": False}]
        server.controller.guests = [{"user": "bob", "service": "board", "began_at": 1.79e9, "expires_at": 4e9}]
        server.controller.add("train", SessionState.FAILED, id="01" + "d" * 24, outcome="TIMEOUT", reason="time limit")
        yield server


def _context(chromium: Browser, portal: PortalServer, *, logged_in: bool = True, **options: object) -> BrowserContext:
    context = chromium.new_context(base_url=portal.url, **options)  # type: ignore[arg-type]
    context.set_default_timeout(DEADLINE_MS)
    if logged_in:
        context.add_cookies(
            [
                {
                    "name": NAME,
                    "value": SECRET,
                    "domain": portal.origins.portal_host,
                    "path": "/",
                    "secure": True,
                    "httpOnly": True,
                    "sameSite": "Lax",
                }
            ]
        )
    return context


@pytest.fixture
def page(chromium: Browser, portal: PortalServer) -> Iterator[Page]:
    with _context(chromium, portal) as context:
        yield context.new_page()


def _violations(page: Page) -> list[str]:
    """Return what axe-core finds against WCAG 2.2 AA, with the element of each finding."""
    page.evaluate(AXE)
    result = page.evaluate("tags => axe.run(document, {runOnly: tags})", WCAG)
    return [f"{each['id']}: {node['html'][:200]}" for each in result["violations"] for node in each["nodes"]]


@pytest.mark.parametrize("look", LOOKS)
def test_pages_are_accessible_and_fit(chromium: Browser, portal: PortalServer, look: str) -> None:
    scheme, width = LOOKS[look]
    size = {"width": width, "height": 800}
    found: dict[str, list[str]] = {}
    with _context(chromium, portal, color_scheme=scheme, viewport=size) as context:
        page = context.new_page()
        refused: list[str] = []
        page.on("console", lambda message: refused.append(message.text) if "Policy" in message.text else None)
        for path in PAGES:
            page.goto(path)
            found[path] = _violations(page)
            if page.evaluate("document.documentElement.scrollWidth") > width:
                found[path].append("wider than the window")
        page.goto("/start")
        page.get_by_role("button", name="Start").click()
        found["/start with faults"] = _violations(page)
    assert {path: faults for path, faults in found.items() if faults} == {}
    assert refused == []


def test_start_with_keyboard_alone(page: Page, portal: PortalServer) -> None:
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="New session").last).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**/start")
    page.get_by_label("Name").focus()
    page.keyboard.type("trial")
    page.keyboard.press("Tab")
    page.keyboard.type("triton")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # in a field of text it sends the form; in a list it opens the list
    page.wait_for_url("**/sessions/trial?done=start")
    assert portal.controller.sent("POST")[0] == ("/v1/sessions/trial/start", {"profile": "triton-xpu"})


def test_link_logs_in_and_leaves_no_secret_in_address(chromium: Browser, portal: PortalServer) -> None:
    with _context(chromium, portal, logged_in=False) as context:
        page = context.new_page()
        page.goto("/sessions/dev")
        assert page.url == f"{portal.url}/login?next=/sessions/dev"
        page.goto("/login#" + "x" * 43)
        page.wait_for_url(f"{portal.url}/login/check")
        page.get_by_role("button", name="Log in as alice").click()
        page.wait_for_url(f"{portal.url}/")
        assert portal.controller.sent("POST")[1] == ("/v1/web/delegations", ANY)
        assert portal.controller.sent("POST")[1][1]["proof"] == "x" * 43


def test_link_of_somebody_else_logs_in_only_by_a_click(chromium: Browser, portal: PortalServer) -> None:
    with _context(chromium, portal, logged_in=False) as context:
        page = context.new_page()
        page.goto("/login#" + "x" * 43)
        expect(page.get_by_role("heading", name="Log in as alice?")).to_be_visible()
        assert _violations(page) == []
        assert [path for path, _ in portal.controller.sent("POST")] == ["/v1/web/links/check"]
        assert context.cookies() == []
        page.get_by_role("link", name="Cancel").click()
        page.wait_for_url("**/login")
        assert context.cookies() == []


def test_link_in_logged_in_browser_says_that_it_replaces_the_login(page: Page, portal: PortalServer) -> None:
    page.goto("/login#" + "x" * 43)
    expect(page.get_by_text("The browser is logged in already.")).to_be_visible()
    page.get_by_role("button", name="Log in as alice").click()
    page.wait_for_url(f"{portal.url}/")


def test_everything_but_live_updates_works_without_scripts(chromium: Browser, portal: PortalServer) -> None:
    with _context(chromium, portal, logged_in=False, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto("/sessions/dev")
        page.get_by_label("Code").fill("abcde-fghjk")
        page.get_by_role("button", name="Continue").click()
        page.get_by_role("button", name="Log in as alice").click()
        page.wait_for_url("**/sessions/dev")
        page.get_by_role("link", name="Switch profile").click()
        page.get_by_label("Profile").select_option("triton-xpu")
        page.get_by_label("Fresh").check()
        page.get_by_role("button", name="Continue").click()
        expect(page.get_by_role("cell", name="triton-xpu@4 (Triton for Intel GPUs)")).to_be_visible()
        page.get_by_role("button", name="Switch profile").click()
        page.wait_for_url("**/sessions/dev?done=switch")
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_text("This browser is logged out.")).to_be_visible()
    assert portal.controller.sent("POST")[-1] == ("/v1/sessions/dev/switch", {"profile": "triton-xpu", "fresh": True})


def _event(kind: str, *views: SessionView) -> tuple[str, dict[str, Any]]:
    field = "sessions" if kind == "sessions" else "changed"
    return kind, {"revision": "1", field: [each.model_dump(mode="json") for each in views], "removed": []}


def test_change_is_shown_and_announced_once_and_focus_stays(page: Page, portal: PortalServer) -> None:
    starting = portal.controller.add("dev", SessionState.STARTING)
    page.goto("/")
    link = page.get_by_role("link", name="dev")
    link.focus()
    page.evaluate(
        """() => {
            window.announced = [];
            new MutationObserver(() => announced.push(announcement.textContent))
                .observe(announcement, {childList: true});
        }"""
    )
    with page.expect_request(f"{portal.url}/"):  # only changes after the first state are announced
        portal.send(*_event("sessions", starting))
    ready = portal.controller.add("dev")
    portal.send(*_event("change", ready))
    portal.send(*_event("change", ready.model_copy(update={"used_at": 5.0})))
    expect(page.locator(".state").first).to_have_text("ready")
    expect(link).to_be_focused()
    portal.send(*_event("change", view("late", SessionState.FAILED, id=SESSION_ID[:-1] + "z")))
    expect(page.locator("#announcement")).to_have_text("late: failed")
    assert page.evaluate("announced") == ["dev: ready on c1", "late: failed"]


def test_page_asks_for_login_when_it_has_ended(page: Page, portal: PortalServer) -> None:
    page.goto("/sessions/dev")
    portal.controller.delegations.clear()
    portal.send("ended", {"logged_out": True})
    page.wait_for_url("**/login?next=/sessions/dev")
