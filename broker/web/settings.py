"""Decisions for the process of berth-web, and the files of its runtime directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.origins import Origins

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class WebProcessSettings:
    """The addresses, files and limits of berth-web. Each time is in seconds."""

    origins: Origins
    listen_host: str
    listen_port: int
    certificate: Path | None
    api_socket: Path
    idle_tunnel: float
    directory: Path
    """Belongs to berth-web's account. The controller finds the control socket in it."""

    def __post_init__(self) -> None:
        if self.behind_proxy and self.listen_host not in _LOOPBACK:
            raise InvalidInputError(
                f"web.listen is {self.listen_host}:{self.listen_port}, and there is no web.certificate",
                hint="set web.certificate, or listen on 127.0.0.1 for a proxy on this node that ends TLS",
            )

    @property
    def behind_proxy(self) -> bool:
        """Whether a proxy on this machine ends TLS."""
        return self.origins.scheme == "https" and self.certificate is None

    @property
    def app_socket(self) -> Path:
        return self.directory / "app.sock"

    @property
    def control_socket(self) -> Path:
        return self.directory / "control.sock"

    @property
    def tunnels(self) -> Path:
        """The directory with a directory for each session. Its name is short: paths of sockets are limited."""
        return self.directory / "t"

    @property
    def grants_file(self) -> Path:
        return self.directory / "grants.json"
