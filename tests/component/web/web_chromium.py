"""Chromium at the origins of berth-web: one site for it, with TLS, as on a real domain."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import ssl
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.async_api import async_playwright

from tests.chromium import NO_SANDBOX, chromium_program
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.web_world import Entered, WebWorld, web_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from playwright._impl._api_structures import SetCookieParam
    from playwright.async_api import BrowserContext

DOMAIN = "apps.test"
"""Its origins are of one site for a browser, unlike those of `localhost`."""


def play_on_one_site(scene: Callable[[WebWorld], Awaitable[None]]) -> None:
    """Play a scene in a world in which berth-web serves the domain with TLS."""

    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), web_world() as world:
            world.use_tls(DOMAIN)
            async with world.serving():
                await scene(world)

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def chromium_of(world: WebWorld, *entered: Entered) -> AsyncIterator[BrowserContext]:
    """Chromium with the cookies of a browser that is logged in, and at these services."""
    async with async_playwright() as playwright:
        rules = f"--host-resolver-rules=MAP *.{DOMAIN} 127.0.0.1"
        trusted = f"--ignore-certificate-errors-spki-list={_pin(world)}"
        chromium = await playwright.chromium.launch(
            executable_path=chromium_program(), args=[NO_SANDBOX, rules, trusted]
        )
        context = await chromium.new_context()
        await context.add_cookies(_cookies(world, entered))
        yield context
        await chromium.close()


def _cookies(world: WebWorld, entered: Iterable[Entered]) -> list[SetCookieParam]:
    return [
        {"name": name, "value": value, "domain": host, "path": "/", "secure": True, "httpOnly": True, "sameSite": "Lax"}
        for name, value, host in (
            ("__Host-Http-berth-portal", "s" * 43, world.settings.origins.portal_host),
            *(("__Host-Http-berth", each.cookie, each.host) for each in entered),
        )
    ]


def _pin(world: WebWorld) -> str:
    """The hash of the certificate's key, by which Chromium trusts it."""
    assert world.settings.certificate is not None
    pem = ssl.PEM_cert_to_DER_cert(_certificate(world.settings.certificate.read_text()))
    key = x509.load_der_x509_certificate(pem).public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(spki).digest()).decode()


def _certificate(text: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    return begin + text.partition(begin)[2].partition(end)[0] + end
