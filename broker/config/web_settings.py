"""The settings of web access."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from broker.config.oidc_settings import OidcSettings
from broker.config.section import Section
from broker.config.setting_types import AbsolutePath, Listen, SocketOrPort
from broker.origins import Origins


def _check_web_url(url: str) -> str:
    Origins.parse(url)
    return url


def _check_network(network: str) -> str:
    ipaddress.ip_network(network)
    return network


class WebSettings(Section):
    """Web access: the portal, and the services of sessions in browsers."""

    url: Annotated[str, AfterValidator(_check_web_url)] | None = None
    """The address below which every origin has its name, such as `https://apps.example.org`; default: no web access.
    A wildcard record of DNS has to lead all names below it to the node of berth-web."""
    listen: SocketOrPort = "127.0.0.1:8443"
    """`HOST:PORT`, at which HAProxy listens; or the absolute path of a Unix socket, for a proxy on the same node that
    ends TLS."""
    certificate: AbsolutePath | None = None
    """A PEM file with the private key and the certificate chain for `*.DOMAIN`; default: no TLS, for `web.listen` that
    is a path."""
    address_connections: Annotated[int, Field(ge=10, le=20_000)] = 200
    """Connections that HAProxy accepts from one address at once, or from one IPv6 network of 64 bits. Behind a proxy on
    the same node there is no such limit."""
    account: str = "berth-web"
    """The only account that may act for logged-in browsers."""
    minimum_uid: Annotated[int, Field(ge=0)] = 1000
    """No browser can act for an account below it: the value of the launcher's `--minimum-uid`."""
    runtime_dir: AbsolutePath = Path("/run/berth-web")
    """The directory of berth-web's sockets; it belongs to berth-web's account."""
    login_lifetime: Annotated[float, Field(ge=60, le=31 * 86400)] = 12 * 3600.0
    """Time for which a browser stays logged in."""
    link_lifetime: Annotated[float, Field(ge=1, le=600)] = 60.0
    """Time for which a login link is valid."""
    door_lifetime: Annotated[float, Field(ge=10, le=3600)] = 300.0
    """Validity of berth-web's certificate for one session."""
    source_addresses: Annotated[tuple[Annotated[str, AfterValidator(_check_network)], ...], Field(max_length=64)] = ()
    """Networks, such as `192.0.2.0/28`, from which that certificate is valid; default: the addresses from which the
    controller's node reaches the session's node. Set it where nodes see another address, behind an address
    translation."""
    idle_tunnel: Annotated[float, Field(ge=1, le=86400)] = 600.0
    """Time after which berth-web closes the connection to a session that no browser uses."""
    metrics_listen: Listen | None = None
    """Address of berth-web's metrics for Prometheus, such as `127.0.0.1:9419`; default: none."""

    oidc: Annotated[OidcSettings, Field(validate_default=True)] = OidcSettings()

    @field_validator("oidc")
    @classmethod
    def _check_oidc(cls, oidc: OidcSettings, info: ValidationInfo) -> OidcSettings:
        url = info.data.get("url", "")
        if oidc.issuer is None or url == "":  # a fault of `url` is reported there
            return oidc
        if url is None:
            raise ValueError("is for sites with web access: set web.url")
        if url.startswith("https:") and not oidc.issuer.startswith("https:"):
            raise ValueError("web.oidc.issuer must begin with https://, as web.url does")
        return oidc
