"""Addresses that a request names, and to which the portal may lead a browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from broker.origins import Origins

MAX_PATH_CHARS = 4097
"""As long as the paths that the origins of services send: a slash and 4096 characters."""
_PATH = re.compile(r"/(?!/)[!-\[\]-~]*", re.ASCII)
"""A path on the same origin: printable ASCII without blanks and backslashes, which browsers read as slashes."""
_LABEL = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)


def is_local_path(path: str) -> bool:
    """Whether a browser that is led to this path stays on the origin."""
    return len(path) <= MAX_PATH_CHARS and _PATH.fullmatch(path) is not None


def local_path(path: str) -> str:
    """Return the path if it stays on the origin, else `/`."""
    return path if is_local_path(path) else "/"


def check_service_host(origins: Origins, host: str) -> None:
    """Raise InvalidInputError unless the host can be the origin of a service here."""
    label, dot, domain = host.partition(".")
    if not dot or domain != origins.domain or host == origins.portal_host or not _LABEL.fullmatch(label):
        raise InvalidInputError(
            "the address is not one of a service here", hint="open the service from the page of its session"
        )
