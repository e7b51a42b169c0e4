"""A browser without scripts, for the portal's application in the same process."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import httpx

from broker.origins import Origins
from broker.web.entrances import Entrances
from broker.web.portal.app import make_portal
from broker.web.portal.live_sessions import LiveSessions
from broker.web.portal.login_cookie import NAME
from broker.web.portal.portal_context import PortalContext
from tests.fakes.portal_controller import SECRET, FakePortalController

if TYPE_CHECKING:
    from collections.abc import Mapping

ORIGINS = Origins.parse("https://apps.example.org")
PORTAL = "https://portal.apps.example.org"


class PortalBrowser:
    """Sends requests as a browser does: with its cookie, and forms with their origin."""

    def __init__(self) -> None:
        self.controller = FakePortalController()
        self.entrances = Entrances()
        self.live = LiveSessions(self.controller)
        self.app = make_portal(PortalContext(ORIGINS, self.controller, self.entrances, self.live, "Example & Co"))
        self.cookie = f"{NAME}={SECRET}"

    def without_provider(self) -> None:
        """Have the site no OpenID provider."""
        self.app = make_portal(PortalContext(ORIGINS, self.controller, self.entrances, self.live))

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return self.request("GET", path, headers=headers or {})

    def post(
        self, path: str, fields: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Send a form from a page of the portal, unless `headers` says another origin."""
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        sent = form | ({"Origin": PORTAL, "Sec-Fetch-Site": "same-origin"} if headers is None else dict(headers))
        return self.request("POST", path, headers=sent, content=urlencode(fields or {}))

    def request(self, method: str, path: str, *, headers: Mapping[str, str], content: str = "") -> httpx.Response:
        return asyncio.run(self._send(method, path, dict(headers), content))

    async def _send(self, method: str, path: str, headers: dict[str, str], content: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        cookie = {"Cookie": self.cookie} if self.cookie else {}
        async with httpx.AsyncClient(transport=transport, base_url=PORTAL) as client:
            return await client.request(method, path, headers=cookie | headers, content=content or None)
