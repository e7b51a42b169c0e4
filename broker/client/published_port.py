"""A port of a session that is published as a service: a relay there connects its socket to localhost."""

from __future__ import annotations

from broker import service_catalogue
from broker.service_catalogue import ListedService
from profiles.recipe.service import Service

MAX_TITLE_CHARS = 60
"""Limit of a service's title."""


def published_service(port: int, title: str = "") -> ListedService:
    """Return the service of a port, as it is before it starts. The title is one line of at most `MAX_TITLE_CHARS`."""
    name = f"port-{port}"
    service = Service(
        name=name,
        command=f"exec /bin/bash {service_catalogue.PROGRAM} relay {name}",
        socket=f"{name}.sock",
        title=title or f"Port {port}",
        description=f"localhost:{port} in the session",
    )
    return ListedService(service, own=True, state="stopped", published=True)
