"""The portal's ASGI application."""

from __future__ import annotations

import logging
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from broker.errors import BerthError, LoggedOutError, RefusedError
from broker.web import metrics
from broker.web.local_paths import is_local_path
from broker.web.portal.account_routes import ACCOUNT_ROUTES
from broker.web.portal.action_routes import ACTION_ROUTES
from broker.web.portal.live_updates import LIVE_ROUTES
from broker.web.portal.login_cookie import clear_login
from broker.web.portal.login_routes import LOGIN_ROUTES
from broker.web.portal.portal_context import redirect
from broker.web.portal.protection import SecurityHeaders, check_form_origin
from broker.web.portal.provider_routes import LOGOUT_PATH, PROVIDER_ROUTES
from broker.web.portal.session_routes import SESSION_ROUTES
from broker.web.portal.start_routes import START_ROUTES
from broker.web.portal.templates import render

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from broker.origins import Origins
    from broker.web.portal.portal_context import PortalContext

_STATIC = Path(__file__).parent / "static"

log = logging.getLogger(__name__)


def make_portal(context: PortalContext) -> ASGIApp:
    """Return the application for requests to the portal's host."""
    app = Starlette(
        routes=[
            *LOGIN_ROUTES,
            *PROVIDER_ROUTES,
            *SESSION_ROUTES,
            *START_ROUTES,
            *ACCOUNT_ROUTES,
            *LIVE_ROUTES,
            *ACTION_ROUTES,
            Mount("/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[Middleware(_FormOrigins, context.origins)],
        exception_handlers={
            LoggedOutError: _show_login,
            BerthError: _show_error,
            HTTPException: _show_http_error,
            Exception: _show_failure,
        },
    )
    app.state.portal = context
    return SecurityHeaders(app, context.origins)  # around everything: the framework answers failures outside


class _FormOrigins:
    """ASGI middleware that refuses requests that change something, unless a page of the portal has sent them.

    The OpenID provider's logouts are no browser's requests: their tokens prove whose they are.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._app
        if scope["type"] == "http" and scope["method"] not in {"GET", "HEAD"} and scope["path"] != LOGOUT_PATH:
            try:
                check_form_origin(Headers(scope=scope), self._origins)
            except RefusedError as error:
                metrics.REFUSALS.labels(error.reason).inc()
                answer = _error_page(error, error.status)
        await answer(scope, receive, send)


async def _show_login(request: Request, _: Exception) -> Response:
    """Lead to the login, and from there back to the page. A form is lost."""
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    wanted = request.method == "GET" and is_local_path(path) and path != "/"
    response = redirect("/login" + (f"?next={quote(path, safe='/')}" if wanted else ""))
    clear_login(response)
    return response


async def _show_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, BerthError)
    metrics.REFUSALS.labels(error.reason).inc()
    return _error_page(error, error.status)


async def _show_http_error(_: Request, error: Exception) -> Response:
    """Answer a refusal of the framework: an unknown path or method."""
    assert isinstance(error, HTTPException)
    reason = HTTPStatus(error.status_code).phrase.lower()
    return _error_page(BerthError(f"there is no such page ({error.status_code} {reason})"), error.status_code)


async def _show_failure(request: Request, error: Exception) -> Response:
    log.error("request failed method=%s path=%s", request.method, request.url.path, exc_info=error)
    return _error_page(
        BerthError("the portal failed to make this page", hint="the log of berth-web has the cause"), 500
    )


def _error_page(error: BerthError, status: int) -> Response:
    return HTMLResponse(render("error.html", error=error), status_code=status)
