"""Decisions for the process of berth-web, and the files of its runtime directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.config.setting_types import parse_host_and_port
from broker.errors import ConflictError, InvalidInputError
from broker.origins import Origins

if TYPE_CHECKING:
    from broker.config.settings import Config

RUNTIME_DIRECTORY = Path("/run/berth-web")
"""Belongs to berth-web's account. The controller finds `control.sock` in it."""
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class WebProcessSettings:
    """How berth-web serves. Each time is in seconds."""

    origins: Origins
    listen_host: str
    listen_port: int
    certificate: Path | None
    api_socket: Path
    idle_tunnel: float
    directory: Path = RUNTIME_DIRECTORY

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


def web_settings(config: Config) -> WebProcessSettings:
    """Return the settings of a site's configuration. A BerthError says what to set unless it has web access."""
    web = config.web
    if web.url is None:
        raise ConflictError("web.url is not set, so this site has no web access", hint="see docs/howto/site.md")
    origins = Origins.parse(web.url)
    host, port = parse_host_and_port(web.listen)
    settings = WebProcessSettings(origins, host, port, web.certificate, config.api_socket, web.idle_tunnel)
    if settings.behind_proxy and host not in _LOOPBACK:
        raise InvalidInputError(
            f"web.listen is {web.listen}, and there is no web.certificate",
            hint="set web.certificate, or listen on 127.0.0.1 for a proxy on this node that ends TLS",
        )
    return settings
