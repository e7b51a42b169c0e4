"""Settings of a berth-web on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.origins import Origins
from broker.web.settings import WebProcessSettings

if TYPE_CHECKING:
    from pathlib import Path


def loopback_settings(url: str, *, api_socket: Path, directory: Path, provider: str = "") -> WebProcessSettings:
    """Return settings without TLS, which listen on 127.0.0.1 at the port of the URL."""
    origins = Origins.parse(url)
    assert origins.port is not None
    return WebProcessSettings(
        origins=origins,
        listen=("127.0.0.1", origins.port),
        certificate=None,
        api_socket=api_socket,
        idle_tunnel=600,
        address_connections=200,
        provider=provider,
        directory=directory,
    )
