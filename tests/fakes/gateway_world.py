"""A gateway on loopback with real OpenSSH on both sides; only the controller is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncssh

from broker.client import ssh_config
from broker.gateway.server import Gateway
from broker.gateway.settings import GatewaySettings
from broker.schema.site import SiteView
from broker.ssh.certificates import CertificateAuthority
from broker.ssh.host_names import SessionHost
from broker.ssh.keys import PublicKey
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes import openssh
from tests.fakes.gateway_controller import GatewayController
from tests.fakes.openssh import me, public, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from broker.gateway.guard import EndpointAddress


@dataclass
class World:
    """A gateway, a controller, one session `dev` with a real sshd, and alice's laptop, who is the current user."""

    place: Path
    authority: CertificateAuthority
    controller: GatewayController
    gateway: Gateway
    settings: GatewaySettings
    key: Path
    session_port: int

    @property
    def canonical(self) -> str:
        return SessionHost(me(), "dev").canonical_name("berth")

    @property
    def config(self) -> Path:
        site = SiteView(
            user=me(),
            domain="berth",
            gateway_host="127.0.0.1",
            gateway_port=self.gateway.port,
            login_host="127.0.0.1",
            ca_public_keys=[self.authority.public_line],
            mode="site",
        )
        return ssh_config.write_ssh_config(
            self.place / "laptop", site, ssh_config.Route.GATEWAY, identity_file=self.key
        )

    def trust_everybody(self) -> None:
        """Let sessions be what is no sshd."""

        async def prove(_: EndpointAddress) -> None:
            pass

        vars(self.gateway._guards).update(prepare=lambda _: None, prove=prove)

    def settings_with(self, **changes: Any) -> GatewaySettings:  # noqa: ANN401 - any of its fields
        return dataclasses.replace(self.settings, **changes)

    async def ssh(self, *words: str, stdin: bytes = b"") -> openssh.Finished:
        return await run(["ssh", "-F", self.config, "-o", "BatchMode=yes", *words], stdin)

    async def client(self, **options: Any) -> asyncssh.SSHClientConnection:  # noqa: ANN401 - asyncssh's own options
        return await asyncssh.connect(
            "127.0.0.1",
            self.gateway.port,
            **{"username": me(), "client_keys": [str(self.key)], "known_hosts": None, "agent_path": None} | options,
        )


@contextlib.asynccontextmanager
async def world(
    place: Path,
    *,
    session_max_startups: int = 200,
    **settings: Any,  # noqa: ANN401 - any of GatewaySettings
) -> AsyncIterator[World]:
    """`session_max_startups`: MaxStartups of the session's sshd. The gateway's own is a setting as any other."""
    openssh.require()
    authority = CertificateAuthority.load_or_create(place / "ca" / "key")
    key = openssh.make_key(place / "laptop_key")
    session = place / "session"
    session.mkdir()
    host = openssh.make_key(session / "host")
    certificate = authority.sign_host(
        public(host), SessionHost(me(), "dev").principals("berth"), valid_seconds=600, serial=7, key_id="dev"
    )
    (session / "host-cert.pub").write_text(certificate + "\n")
    usual = GatewaySettings(
        listen_host="127.0.0.1",
        listen_port=0,
        api_socket=place / "api.sock",
        host_key=place / "gateway" / "host_key",
        domain="berth",
        keys_fresh_seconds=0,
        drain_seconds=0,
        answer_timeout=3600,
        login_timeout=3600,  # a busy machine may take its time, and what a test waits for must not come from a timer
        keepalive_interval=3600,
    )
    chosen = dataclasses.replace(usual, **settings)
    async with (
        openssh.sshd(session, public(key), max_startups=session_max_startups) as port,
        GatewayController(place / "api.sock", authority) as controller,
    ):
        controller.keys[me()] = [public(key)]
        controller.fingerprint = PublicKey.parse(public(host)).fingerprint
        async with Gateway(chosen) as gateway:
            made = World(place, authority, controller, gateway, chosen, key, port)
            controller.sessions[me(), made.canonical] = ("127.0.0.1", port)
            yield made


def play(place: Path, scene: Callable[[World], Awaitable[None]], **settings: Any) -> None:  # noqa: ANN401 - as above
    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), world(place, **settings) as made:
            await scene(made)

    asyncio.run(whole())


async def until(condition: Callable[[], object], within: float = DEADLINE_S) -> None:
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in programs that set no Event
            await asyncio.sleep(0.01)
