"""HAProxy removes from the answers of a service everything by which it could reach another origin."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.component.web.web_chromium import DOMAIN, chromium_of, play_on_one_site
from tests.deadlines import DEADLINE_S
from tests.fakes.web_world import WebWorld, play_web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from playwright.async_api import BrowserContext

HOSTILE = (
    b'Clear-Site-Data: "cookies"\r\n'
    b"Set-Cookie: \xa0__Host-Http-berth-portal=bob; Domain=apps.test; Path=/; Secure\r\n"
    b"Set-Cookie: tossed=1; Domain=apps.test\r\n"
    b"Set-Cookie: own=1\r\n"
)


def test_cookies_of_a_service_are_its_own() -> None:
    lines: Mapping[str, str] = {
        "a=b; Path=/; HttpOnly": "a=b; Path=/; HttpOnly",
        'a="x y"; Expires=Wed, 21 Oct 2026 07:28:00 GMT': 'a="x y"; Expires=Wed, 21 Oct 2026 07:28:00 GMT',
        "domain=b; Path=/": "domain=b; Path=/",
        "a=b; Domain=apps.localhost; Path=/": "a=b; Path=/",
        "a=b;DOMAIN=.apps.localhost": "a=b",
        "a=b; Path=/; \tdomain\t = apps.localhost ;Secure": "a=b; Path=/;Secure",
        "a=b; \xa0domain=apps.localhost": "a=b",
        "a=b; Domain=x; Path=/; Domain=apps.localhost": "",
        "a=b; Domain=x; Domain=y; Domain=apps.localhost": "",
        "__Host-Http-berth=x; Path=/; Secure": "",
        "__host-HTTP-berth-entry=x; Path=/; Secure": "",
        "\xa0__Host-Http-berth-portal=x; Domain=apps.localhost": "",
        "=__Host-Http-berth-portal=x": "",
        "__Host-other=x; Path=/; Secure": "__Host-other=x; Path=/; Secure",
    }

    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        sent = b"".join(b"Set-Cookie: %s\r\n" % line.encode("latin-1") for line in lines)
        world.echo.answer_headers = (
            sent + b'clear-site-data: "cookies", "storage"\r\nClear-Site-Data: "*"\r\nX-Own: 1\r\n'
        )
        answer = await world.get(browser)
        assert answer.headers_of("set-cookie") == list(lines.values())
        assert not answer.headers_of("clear-site-data")
        assert answer.header("x-own") == "1"

    play_web(scene)


def test_hostile_service_takes_no_cookie_from_chromium_and_gives_its_siblings_none() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        world.echo.answer_headers = HOSTILE
        async with chromium_of(world, browser) as context:
            page = await context.new_page()
            answer = await page.goto(f"{world.origin(browser.host)}/", timeout=DEADLINE_S * 1000)
            assert answer is not None
            assert answer.status == 200
            await _settle(context)
            kept = {(each["name"], each["domain"]) for each in await context.cookies()}
        assert kept == {
            ("__Host-Http-berth-portal", f"portal.{DOMAIN}"),
            ("__Host-Http-berth", browser.host),
            ("own", browser.host),
            ("tossed", browser.host),
        }

    play_on_one_site(scene)


async def _settle(context: BrowserContext) -> None:
    """Return when Chromium has stored the cookies of the answer; it clears those of the site before that."""
    async with asyncio.timeout(DEADLINE_S):
        while not any(each["name"] == "own" for each in await context.cookies()):  # noqa: ASYNC110 - Chromium sets no Event
            await asyncio.sleep(0.02)
