"""Decisions for the process of berth-web, and the files of its runtime directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from broker.origins import Origins


@dataclass(frozen=True, slots=True)
class WebProcessSettings:
    """The addresses, files and limits of berth-web. Each time is in seconds."""

    origins: Origins
    listen: Path | tuple[str, int]
    """A Unix socket for a proxy on this node that ends TLS; or host and port."""
    certificate: Path | None
    api_socket: Path
    idle_tunnel: float
    address_connections: int
    provider: str
    """The name of the OpenID provider, for the login page; empty without one."""
    directory: Path
    """Belongs to berth-web's account. The controller finds the control socket in it."""
    metrics_listen: tuple[str, int] | None = None
    """Host and port of the metrics for Prometheus."""

    def __post_init__(self) -> None:
        if self.behind_proxy and self.certificate is not None:
            raise InvalidInputError(
                "web.listen is a Unix socket, and there is a web.certificate",
                hint="remove web.certificate, if a proxy on this node ends TLS; otherwise listen on HOST:PORT",
            )
        if self.origins.scheme == "https" and self.certificate is None and not self.behind_proxy:
            raise InvalidInputError(
                f"web.listen is {self.listen_text}, and there is no web.certificate",
                hint="set web.certificate, or listen on a Unix socket for a proxy on this node that ends TLS: "
                "any user of the node could listen on a port while berth-web does not",
            )

    @property
    def behind_proxy(self) -> bool:
        """Whether a proxy on this node is the only client: it alone may open the socket."""
        return isinstance(self.listen, Path)

    @property
    def listen_text(self) -> str:
        return str(self.listen) if isinstance(self.listen, Path) else f"{self.listen[0]}:{self.listen[1]}"

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
