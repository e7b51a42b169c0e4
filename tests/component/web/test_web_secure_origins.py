"""With TLS on a real domain, a service has what browsers give to secure origins, and its siblings have none of it.

VS Code needs it: service workers for previews, and the clipboard (tests/lab/test_web_editors.py has it on `localhost`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.component.web.web_chromium import chromium_of, play_on_one_site
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from tests.fakes.web_world import WebWorld

PAGE = (b"text/html", b"<!doctype html><title>A service</title><p>a page</p>")
WORKER = (
    b"text/javascript",
    b"self.addEventListener('fetch', (event) => event.respondWith(new Response('by worker')));",
)
SCOPES = "navigator.serviceWorker.getRegistrations().then((found) => found.map((each) => each.scope))"
REGISTERS = """
async () => {
  await navigator.serviceWorker.register("/worker.js");
  await navigator.serviceWorker.ready;
  return isSecureContext;
}
"""
COPIES = """
async (text) => {
  await navigator.clipboard.writeText(text);
  return navigator.clipboard.readText();
}
"""


def test_service_worker_and_clipboard_are_of_one_service() -> None:
    async def scene(world: WebWorld) -> None:
        browser, other = await world.entered(), await world.entered("other")
        for each in ("echo", "other"):
            world.services[each].pages = {b"/": PAGE, b"/worker.js": WORKER}
        origin, sibling = world.origin(browser.host), world.origin(other.host)
        async with chromium_of(world, browser, other) as context:
            context.set_default_timeout(DEADLINE_S * 1000)
            await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=origin)
            page = await context.new_page()
            await page.goto(f"{origin}/")
            assert await page.evaluate(REGISTERS)
            assert await page.evaluate(SCOPES) == [f"{origin}/"]
            assert await page.evaluate(COPIES, "from a service") == "from a service"
            await page.goto(f"{origin}/again")
            assert await page.text_content("body") == "by worker"
            await page.goto(f"{sibling}/")
            assert await page.text_content("p") == "a page"
            assert await page.evaluate(SCOPES) == []

    play_on_one_site(scene)
