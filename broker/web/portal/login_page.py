"""The login page, with the ways in that the site has."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.responses import HTMLResponse

from broker.web import metrics
from broker.web.portal.portal_context import context_of
from broker.web.portal.templates import render

if TYPE_CHECKING:
    from starlette.requests import Request

    from broker.errors import BerthError

PROVIDER_PATH = "/login/oidc"
"""The path that leads a browser to the OpenID provider."""


def login_page(
    request: Request, next_path: str, *, notice: str = "", error: BerthError | None = None, by_code: bool = True
) -> HTMLResponse:
    """Return the page, with the status of the error. `by_code`: whether the error is of the code that was typed."""
    if error is not None:
        metrics.REFUSALS.labels(error.reason).inc()
    provider = context_of(request).provider
    page = render(
        "login.html",
        next=next_path,
        notice=notice,
        error=error,
        wrong_code=error is not None and by_code,
        provider=provider,
        provider_url=f"{PROVIDER_PATH}?next={quote(next_path, safe='/')}",
    )
    return HTMLResponse(page, status_code=200 if error is None else error.status)
