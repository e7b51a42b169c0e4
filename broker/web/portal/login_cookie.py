"""The cookie that keeps a browser logged in: its value is the secret of the browser's delegation."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from broker.web.own_cookies import read_own_cookie

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from broker.schema.web import DelegationAnswer

NAME = "__Host-Http-berth-portal"
"""With this prefix, browsers take it from the portal itself only, over TLS and not by a script (RFC 6265bis)."""
_SECRET = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


def read_login(request: Request) -> str:
    """Return the delegation's secret; empty without a login. InvalidInputError for two cookies of the name."""
    value = read_own_cookie(request.headers, NAME)
    return value if _SECRET.fullmatch(value) else ""


def set_login(response: Response, delegation: DelegationAnswer) -> None:
    """Log the browser in until the delegation ends."""
    seconds = max(0, int(delegation.expires_at - time.time()))
    response.set_cookie(NAME, delegation.secret, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def clear_login(response: Response) -> None:
    """Remove the cookie."""
    response.delete_cookie(NAME, path="/", secure=True, httponly=True, samesite="lax")
