"""A hostile page at a sibling origin, or of another site, can do one thing to a service in Chromium: link to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.component.web.web_chromium import DOMAIN, chromium_of, play_on_one_site
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.async_api import Page, Response, Route

    from tests.fakes.web_world import WebWorld

SIBLING, OTHER_SITE = f"evil--dev--bob.{DOMAIN}", f"portal.{DOMAIN}.evil.test"
ICON = "/favicon.ico"
"""Chromium asks for it, as the service's own page, also after a refusal."""
ATTACKS = """
async ([target, socket]) => {
  const settled = [];
  const loads = (kind, attributes) => settled.push(new Promise((done) => {
    const element = document.createElement(kind);
    element.onload = element.onerror = done;
    Object.assign(element, attributes);
    document.body.append(element);
  }));
  const fetches = (path, options) => settled.push(
    fetch(target + path, {credentials: "include", ...options}).then(() => {}, () => {}));
  const sends = (path, method, frame) => {
    const form = document.createElement("form");
    Object.assign(form, {action: target + path, method, target: frame});
    document.body.append(form);
    form.submit();
  };
  fetches("/fetch", {mode: "no-cors"});
  fetches("/cors", {mode: "cors"});
  fetches("/post", {method: "POST", mode: "no-cors", body: "a=b"});
  fetches("/put", {method: "PUT", mode: "cors", body: "a"});
  fetches("/custom", {mode: "cors", headers: {"X-CSRFToken": "a"}});
  fetches("/keepalive", {method: "POST", mode: "no-cors", keepalive: true, body: "a"});
  navigator.sendBeacon(target + "/beacon", "a");
  loads("img", {src: target + "/image"});
  loads("script", {src: target + "/script"});
  loads("script", {src: target + "/module", type: "module", crossOrigin: "use-credentials"});
  loads("link", {rel: "stylesheet", href: target + "/style"});
  loads("iframe", {src: target + "/frame"});
  loads("object", {data: target + "/object"});
  for (const name of ["posted", "got"]) loads("iframe", {name, src: "about:blank"});
  sends("/form-in-frame", "post", "posted");
  sends("/get-in-frame", "get", "got");
  for (const path of ["/ws", "/ws?second"]) settled.push(new Promise((done) => {
    const made = new WebSocket(socket + path);
    made.onopen = () => done("open");
    made.onerror = made.onclose = () => done("closed");
  }));
  settled.push(new Promise((done) => {
    const made = new EventSource(target + "/events", {withCredentials: true});
    made.onopen = () => done("open");
    made.onerror = () => { made.close(); done("closed"); };
  }));
  settled.push(navigator.serviceWorker.register(target + "/worker.js").then(() => "open", () => "closed"));
  document.cookie = "__Host-Http-berth=tossed; Domain=apps.test; Path=/; Secure";
  document.cookie = "__Host-Http-berth-portal=tossed; Domain=apps.test; Path=/; Secure";
  return (await Promise.all(settled)).filter((each) => each === "open").length;
}
"""
OPENS = """
async (target) => {
  const opened = window.open(target + "/top");
  while (true) {
    try {
      opened.document.title;
    } catch {
      break;
    }
    await new Promise((done) => setTimeout(done, 20));
  }
  return opened.closed;
}
"""
"""Returns when the opened page is of another origin, so that nothing of it can be read."""


@pytest.mark.parametrize("attacker", [SIBLING, OTHER_SITE])
def test_page_of_another_origin_reaches_a_service_by_a_link_alone(attacker: str) -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        target = world.origin(browser.host)
        async with chromium_of(world, browser) as context:
            page = await context.new_page()
            await page.route(f"https://{attacker}:{world.port}/*", _hostile)
            await page.goto(f"https://{attacker}:{world.port}/", timeout=DEADLINE_S * 1000)
            async with asyncio.timeout(DEADLINE_S):
                assert await page.evaluate(ATTACKS, [target, target.replace("https://", "wss://")]) == 0
            assert _paths(world) == []
            await _posts_top_level(page, target)
            assert set(_paths(world)) <= {ICON}
            async with asyncio.timeout(DEADLINE_S):
                assert not await page.evaluate(OPENS, target)
            await _arrives(world, "/top")
            assert set(_paths(world)) <= {"/top", ICON}
            kept = {(each["name"], each["value"]) for each in await context.cookies(target)}
            assert kept == {("__Host-Http-berth", browser.cookie)}
        assert not any(b"__host-http-berth" in head.lower() for head in world.echo.heads)

    play_on_one_site(scene)


def _paths(world: WebWorld) -> list[str]:
    return [head.split(b" ", 2)[1].decode() for head in world.echo.heads]


async def _arrives(world: WebWorld, path: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while path not in _paths(world):  # noqa: ASYNC110 - the service sets no Event
            await asyncio.sleep(0.02)


async def _hostile(route: Route) -> None:
    await route.fulfill(content_type="text/html", body="<!doctype html><title>hostile</title><body></body>")


async def _posts_top_level(page: Page, target: str) -> None:
    """Send a form into a window of its own: refused."""
    script = """
    (target) => {
      const form = document.createElement("form");
      Object.assign(form, {action: target + "/posted", method: "post", target: "_blank"});
      document.body.append(form);
      form.submit();
    }
    """
    is_it: Callable[[Response], bool] = lambda each: each.url.endswith("/posted")  # noqa: E731 - a short name
    async with page.context.expect_event("response", is_it, timeout=DEADLINE_S * 1000) as answered:
        await page.evaluate(script, target)
    assert (await answered.value).status == 403
