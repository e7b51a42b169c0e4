"""Name and address of a browser that logs in, for the list of logged-in browsers."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

ADDRESS_HEADER = "X-Berth-Address"
"""The browser's address, from HAProxy."""
MAX_BROWSER_CHARS = 200
_NOT_SHOWN = re.compile(r"[^\x20-\x7e]+")


def read_browser(request: Request) -> str:
    """Return the browser's name as it says it, shortened, as schema.web.BrowserText."""
    return _NOT_SHOWN.sub("?", request.headers.get("user-agent", ""))[:MAX_BROWSER_CHARS]


def read_address(request: Request) -> str:
    """Return the browser's address; empty if it is unknown."""
    try:
        return str(ipaddress.ip_address(request.headers.get(ADDRESS_HEADER, "").partition("%")[0]))
    except ValueError:
        return ""
