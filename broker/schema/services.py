"""Types of the services of sessions."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from broker.names import MAX_SERVICE_CHARS, SERVICE_PATTERN
from broker.schema.base import Strict

ServiceName = Annotated[str, StringConstraints(max_length=MAX_SERVICE_CHARS, pattern=SERVICE_PATTERN)]


class SessionServiceView(Strict):
    """A service that a session's profile declares, or that its owner has added."""

    name: ServiceName
    title: str = ""
    description: str = ""
    icon: str = "web"
    added: bool = False
    """Whether the owner's files or published ports define it; they replace a service of the profile."""


class SessionServices(Strict):
    services: list[SessionServiceView]
