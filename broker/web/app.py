"""The application of berth-web behind HAProxy: the portal at its host, and the way in at the hosts of services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from broker.web.service_face import host_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from broker.origins import Origins


class HostRouter:
    """An ASGI application that chooses another one by the host of the request."""

    def __init__(self, origins: Origins, portal: ASGIApp, services: ASGIApp) -> None:
        self._origins = origins
        self._portal = portal
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = host_of(Request(scope))
        if host == self._origins.portal_host:
            await self._portal(scope, receive, send)
        elif host.endswith(f".{self._origins.domain}"):
            await self._services(scope, receive, send)
        else:
            response = PlainTextResponse(f"the portal is {self._origins.portal_url}\n", 421)
            await response(scope, receive, send)
