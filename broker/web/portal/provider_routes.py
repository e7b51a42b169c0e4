"""Logging in at the OpenID provider, and the provider's logouts. The controller makes and checks all that proves."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from pydantic import ValidationError
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.errors import BerthError, InvalidInputError, RefusedError
from broker.schema.oidc import ProviderAnswer, ProviderLoginRequest, ProviderLogout
from broker.web.local_paths import local_path
from broker.web.own_cookies import read_own_cookie
from broker.web.portal.browser_facts import read_address, read_browser
from broker.web.portal.login_cookie import set_login
from broker.web.portal.login_page import PROVIDER_PATH, login_page
from broker.web.portal.portal_context import context_of, redirect
from broker.web.portal.protection import read_form

if TYPE_CHECKING:
    from starlette.requests import Request

COOKIE = "__Host-Http-berth-oidc"
"""The cookie of a login at the provider: the controller's secret for this browser, and the page that it wanted."""
CALLBACK_PATH, LOGOUT_PATH = f"{PROVIDER_PATH}/callback", f"{PROVIDER_PATH}/logout"
MAX_NEXT_CHARS = 1500
"""Browsers take cookies of 4096 bytes; quoted, a path can be twice as long."""
_COOKIE = re.compile(r"([A-Za-z0-9_-]{8,64})\.([A-Za-z0-9_.~%-]*)", re.ASCII)


async def begin_login(request: Request) -> Response:
    """Lead the browser to the provider, and bind the provider's answer to a cookie of this browser."""
    next_path = local_path(request.query_params.get("next", "/"))
    try:
        _require_own_page(request)
        login = await context_of(request).controller.begin_provider_login(
            ProviderLoginRequest(address=read_address(request))
        )
    except BerthError as error:
        return login_page(request, next_path, error=error, by_code=False)
    response = redirect(login.url)
    wanted = next_path if len(next_path) <= MAX_NEXT_CHARS else "/"
    _set_cookie(response, f"{login.secret}.{quote(wanted, safe='')}", max(int(login.expires_at - time.time()), 0))
    return response


async def complete_login(request: Request) -> Response:
    """Exchange the provider's answer for a delegation, and lead the browser to the page that it wanted."""
    next_path = "/"
    try:
        found = _COOKIE.fullmatch(read_own_cookie(request.headers, COOKIE))
        if found is None:
            raise RefusedError(
                "this browser has begun no login, or too long ago",
                hint="log in again; the browser must accept the cookies of this site",
            )
        next_path = local_path(unquote(found[2]))
        delegation = await context_of(request).controller.complete_provider_login(_answer(request, found[1]))
    except BerthError as error:
        return login_page(request, next_path, error=error, by_code=False)
    response = redirect(next_path)
    _set_cookie(response, "", 0)
    set_login(response, delegation)
    return response


async def end_logins(request: Request) -> Response:
    """Carry the provider's logout token to the controller, and answer when the connections are closed.

    The status says what happened (OpenID Connect Back-Channel Logout 1.0, section 2.8).
    """
    try:
        form = await read_form(request)
        try:
            token = ProviderLogout(logout_token=form.get("logout_token", ""))
        except ValidationError as error:
            raise InvalidInputError("the request has no logout token") from error
        answer = await context_of(request).controller.end_provider_logins(token)
    except BerthError as error:
        return _logout_failure(error.message, error.status if error.status >= 500 else 400)
    if not answer.closed:
        return _logout_failure("logged out, but some connections are closed later", 400)
    return Response(status_code=200)


def _logout_failure(description: str, status: int) -> Response:
    return JSONResponse({"error": "invalid_request", "error_description": description}, status_code=status)


def _require_own_page(request: Request) -> None:
    """Raise RefusedError if another site leads the browser to a login, or the browser only looks ahead."""
    if request.headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
        raise RefusedError("another page has led you to this login", hint="log in here, if you want to")
    if request.headers.get("sec-purpose") is not None:
        raise RefusedError("a login cannot be loaded in advance", hint="log in here")


def _answer(request: Request, secret: str) -> ProviderAnswer:
    query = request.query_params
    names = {"state": "state", "code": "code", "error": "error", "iss": "issuer"}
    if any(len(query.getlist(name)) > 1 for name in names):
        raise InvalidInputError("the provider's answer has a parameter twice", hint="log in again")
    try:
        return ProviderAnswer(
            secret=secret,
            browser=read_browser(request),
            address=read_address(request),
            **{field: query.get(name, "") for name, field in names.items()},
        )
    except ValidationError as error:
        raise InvalidInputError("the provider's answer is faulty", hint="log in again") from error


def _set_cookie(response: Response, value: str, max_age_s: int) -> None:
    response.set_cookie(COOKIE, value, max_age=max_age_s, path="/", secure=True, httponly=True, samesite="lax")


PROVIDER_ROUTES = [
    Route(PROVIDER_PATH, begin_login, methods=["GET"]),
    Route(CALLBACK_PATH, complete_login, methods=["GET"]),
    Route(LOGOUT_PATH, end_logins, methods=["POST"]),
]
