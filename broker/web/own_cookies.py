"""The value of one of Berth's cookies in a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from starlette.datastructures import Headers


def read_own_cookie(headers: Headers, name: str) -> str:
    """Return the cookie's value; empty without one. InvalidInputError for two cookies of the name.

    Only blanks and tabs around a name do not count. `str.strip`, and Starlette's own parser, drop other characters
    too: with one of them before it, a name is not ours for the browser, which then lets pages of siblings set it.
    """
    pairs = [pair.strip(" \t").partition("=") for line in headers.getlist("cookie") for pair in line.split(";")]
    values = [value for key, _, value in pairs if key == name]
    if len(values) > 1:
        raise InvalidInputError(
            f"the browser has sent two cookies {name}", hint="remove this site's cookies, and log in again"
        )
    return values[0] if values else ""
