"""Addresses of services that a request names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from broker.origins import Origins

_LABEL = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)


def check_service_host(origins: Origins, host: str) -> None:
    """Raise InvalidInputError unless the host can be the origin of a service here."""
    label, dot, domain = host.partition(".")
    if not dot or domain != origins.domain or host == origins.portal_host or not _LABEL.fullmatch(label):
        raise InvalidInputError(
            "the address is not one of a service here", hint="open the service from the page of its session"
        )
