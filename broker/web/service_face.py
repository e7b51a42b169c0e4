"""The application at the origins of services: it leads browsers to the portal and in, and opens services.

HAProxy sends a request here if its cookie has no route. `X-Berth-Grant` has the key that HAProxy has looked up.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from broker.errors import BerthError, InvalidInputError, RefusedError, TooManyError
from broker.web import metrics
from broker.web.local_paths import is_local_path, local_path
from broker.web.own_cookies import read_own_cookie

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from broker.origins import Origins
    from broker.web.access import BrowserAccess
    from broker.web.entrances import Entrances
    from broker.web.grants import Grant
    from broker.web.portal.service_pages import PortalServicePages

GRANT_COOKIE = "__Host-Http-berth"
ENTRY_COOKIE = "__Host-Http-berth-entry"
ENTRY_LIFETIME_S = 600
ENTER_PATH = "/.berth/enter"
OPEN_TIMEOUT_S = 5.0
"""Time for which a navigation waits for its service; then the browser gets a page that asks again."""
RETRY_AFTER_S = 2
_ENTRY = re.compile(r"[A-Za-z0-9_-]{43}")


class ServiceFace:
    """An ASGI application for the hosts of services."""

    def __init__(
        self, origins: Origins, access: BrowserAccess, entrances: Entrances, pages: PortalServicePages
    ) -> None:
        self._origins = origins
        self._access = access
        self._entrances = entrances
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._respond(Request(scope, receive))
        response.headers["Cache-Control"] = "no-store"
        response.headers["Referrer-Policy"] = "no-referrer"
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        try:
            return await self._respond_to_browser(request)
        except BerthError as error:
            metrics.REFUSALS.labels(error.reason).inc()
            return _with_status(self._pages.refusal_page(error), error.status)

    async def _respond_to_browser(self, request: Request) -> Response:
        """BerthError if the browser may not enter, or has sent a cookie twice."""
        if request.url.path == ENTER_PATH:
            return await self._enter(request)
        grant = self._grant(request)
        if grant is not None:
            return await self._open(request, grant)
        if _is_navigation(request):
            return self._lead_to_portal(request)
        return PlainTextResponse("no access: open this address in a window of its own, and log in\n", 403)

    def _grant(self, request: Request) -> Grant | None:
        return self._access.find_grant(request.headers.get("x-berth-grant", ""))

    def _lead_to_portal(self, request: Request) -> Response:
        """Send the browser to the portal, and bind the way back to a cookie of this origin."""
        entry = read_own_cookie(request.headers, ENTRY_COOKIE)
        if not _ENTRY.fullmatch(entry):
            entry = secrets.token_urlsafe(32)
        proof = hashlib.sha256(entry.encode()).hexdigest()
        query = urlencode({"host": host_of(request), "path": _path(request), "entry": proof}, safe="/")
        response = RedirectResponse(f"{self._origins.portal_url}/open?{query}", 303)
        _set_cookie(response, ENTRY_COOKIE, entry, ENTRY_LIFETIME_S)
        return response

    async def _enter(self, request: Request) -> Response:
        """Exchange the code of the portal for the cookie of a grant. BerthError if the browser may not enter."""
        path = request.query_params.get("path", "/")
        if request.method != "GET" or not is_local_path(path):
            raise InvalidInputError("this address is not complete", hint="open the service again")
        code, entry = request.query_params.get("code", ""), read_own_cookie(request.headers, ENTRY_COOKIE)
        response = RedirectResponse(path, 303)
        _set_cookie(response, ENTRY_COOKIE, "", 0)
        present = self._grant(request)
        try:
            visit = self._entrances.enter(host_of(request), code, entry)
        except RefusedError:
            if present is None:
                raise
            return response  # another page of this browser has entered meanwhile
        grant, cookie = await self._access.create_grant(visit)
        _set_cookie(response, GRANT_COOKIE, cookie, max(int(visit.expires_at - time.time()), 0))
        if present is not None and present.visit.delegation_id != visit.delegation_id:
            # Another login of this browser, whose cookie is replaced.
            await self._access.end([present])
        with contextlib.suppress(TooManyError):  # the next request says it
            await self._access.open(grant, 0)
        return response

    async def _open(self, request: Request, grant: Grant) -> Response:
        """Open the service of a grant that has no route."""
        is_navigation = _is_navigation(request)
        service = await self._access.open(grant, OPEN_TIMEOUT_S if is_navigation else 0)
        if not is_navigation:
            headers = {"Retry-After": str(RETRY_AFTER_S)}
            return PlainTextResponse("the service is not open now\n", 503, headers=headers)
        if service.ready.is_set():
            return RedirectResponse(_path(request), 303)
        if service.error is None:
            return _with_status(self._pages.start_page(grant.visit, list(service.report.lines)), 202)
        page = self._pages.failure_page(grant.visit, service.error, list(service.report.lines))
        return _with_status(page, service.error.status)


def host_of(request: Request) -> str:
    """Return the host name of a request, without a port."""
    return request.headers.get("host", "").partition(":")[0].lower()


def _path(request: Request) -> str:
    """Return path and query as the browser has sent them; `/` if they would lead it to another origin."""
    path: bytes = request.scope.get("raw_path") or b"/"
    query: bytes = request.scope["query_string"]
    return local_path((path + (b"?" + query if query else b"")).decode("latin-1"))


def _is_navigation(request: Request) -> bool:
    """Whether the response will be a page in a window of its own. Old browsers say it by what they accept."""
    if request.method not in {"GET", "HEAD"}:
        return False
    mode = request.headers.get("sec-fetch-mode")
    if mode is None:
        return "text/html" in request.headers.get("accept", "")
    return mode == "navigate" and request.headers.get("sec-fetch-dest") == "document"


def _set_cookie(response: Response, name: str, value: str, max_age_s: int) -> None:
    response.set_cookie(name, value, max_age=max_age_s, path="/", secure=True, httponly=True, samesite="lax")


def _with_status(response: Response, status: int) -> Response:
    response.status_code = status
    return response
