"""Rules for all requests and responses of the portal: headers, and the origin of what changes something.

Cookies alone do not prove that a page of the portal has sent a form: the pages of services are on sibling domains,
whose forms carry even cookies with SameSite=Strict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders

from broker.errors import InvalidInputError, RefusedError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from broker.origins import Origins

MAX_FORM_BYTES, MAX_FORM_FIELDS = 65536, 64
FORM_TYPE = "application/x-www-form-urlencoded"
STATIC_PATH = "/static/"


def content_policy(origins: Origins) -> str:
    """Return the Content-Security-Policy of the portal's pages.

    Browsers apply `form-action` to the redirects after a form, too, and a login can lead to a service.
    """
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            f"form-action 'self' {origins.url(f'*.{origins.domain}')}",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
    )


class SecurityHeaders:
    """ASGI middleware that adds the same headers to every response."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._headers = {
            "Content-Security-Policy": content_policy(origins),
            # With `no-referrer`, browsers would send `Origin: null` with forms (Fetch standard, 3.2).
            "Referrer-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-site",  # the pages at services' origins use the style sheet
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers[name] = value
                is_static = scope["path"].startswith(STATIC_PATH)
                headers["Cache-Control"] = "no-cache" if is_static else "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def check_form_origin(headers: Headers, origins: Origins) -> None:
    """Raise RefusedError unless a page of the portal has sent the form.

    Browsers tell the page's origin in `Origin`; where it is missing, `Sec-Fetch-Site` must say the same.
    """
    sent = headers.getlist("origin")
    fetch_site = headers.getlist("sec-fetch-site")
    from_portal = sent == [origins.portal_url] and fetch_site in ([], ["same-origin"])
    if not from_portal and not (not sent and fetch_site == ["same-origin"]):
        raise RefusedError(
            "the form was not sent by a page of this portal", hint="open the page here, and send the form from there"
        )


async def read_form(request: Request) -> dict[str, str]:
    """Return the fields of a form, the last of each name. InvalidInputError if it is too large or of another type."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise InvalidInputError(f"a form has the content type {FORM_TYPE}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise InvalidInputError(f"a form has at most {MAX_FORM_BYTES} bytes")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidInputError("the form has too many fields, or text that is not UTF-8") from error
    return dict(pairs)
