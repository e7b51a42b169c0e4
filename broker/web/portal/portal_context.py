"""The context of all handlers, and functions with which they answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from starlette.responses import HTMLResponse, RedirectResponse

from broker.errors import BerthError, LoggedOutError
from broker.web.portal.login_cookie import read_login
from broker.web.portal.templates import render
from broker.web.portal.user_calls import UserCalls

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.requests import Request

    from broker.origins import Origins
    from broker.web.controller_client import WebControllerClient
    from broker.web.entrances import Entrances
    from broker.web.portal.live_sessions import LiveSessions

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class PortalContext:
    """The parts of berth-web that the portal uses."""

    origins: Origins
    controller: WebControllerClient
    entrances: Entrances
    live: LiveSessions
    provider: str = ""
    """The name of the OpenID provider; empty for a site without logins by OpenID Connect."""


def context_of(request: Request) -> PortalContext:
    """Return the context of the application that serves the request."""
    context = request.app.state.portal
    assert isinstance(context, PortalContext)
    return context


def user_calls(request: Request) -> UserCalls:
    """Return the calls of the logged-in user. LoggedOutError without a login."""
    delegation = read_login(request)
    if not delegation:
        raise LoggedOutError("this browser is not logged in")
    return UserCalls(context_of(request).controller, delegation)


async def show_page(calls: UserCalls, template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    """Return a page of a logged-in user."""
    site = await calls.site()
    return HTMLResponse(render(template, site=site, **values), status_code=status)


def redirect(address: str) -> RedirectResponse:
    """Lead the browser to another address, with GET also after a form (RFC 9110, section 15.4.4)."""
    return RedirectResponse(address, 303)


async def none_if_failed(call: Awaitable[_Value]) -> _Value | None:
    """Return the answer of a call that a page can do without; None if it fails."""
    try:
        return await call
    except LoggedOutError:
        raise
    except BerthError:
        return None
