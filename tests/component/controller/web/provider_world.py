"""A controller whose browsers log in at a real OpenID provider, through a relay that can lie."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joserfc import jws

from broker.schema.oidc import ProviderAnswer, ProviderLoginRequest, ProviderLogout
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes.berth_web import FakeBerthWeb
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler
from tests.openid.openid_provider import CLIENT, SECRET, OpenIdProvider
from tests.openid.person import Person
from tests.openid.relay import RECEIVER, Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from joserfc.jwk import ECKey, RSAKey

    from broker.controller.web.oidc.logins import ProviderLogins
    from broker.controller.web.web_access import WebAccess
    from broker.schema.web import DelegationAnswer
    from tests.openid.relay import Claims

URL = "http://apps.localhost:8080"
REDIRECT = "http://portal.apps.localhost:8080/login/oidc/callback"


@dataclass
class ProviderWorld:
    core: Core
    relay: Relay
    provider: OpenIdProvider
    berth_web: FakeBerthWeb

    @property
    def web(self) -> WebAccess:
        assert self.core.web is not None
        return self.core.web

    @property
    def logins(self) -> ProviderLogins:
        assert self.web.provider is not None
        return self.web.provider

    async def answer(self, person: Person, *, cancel: bool = False) -> ProviderAnswer:
        """Let a person log in at the provider; the provider's answer, as a browser brings it."""
        begun = await self.logins.begin(ProviderLoginRequest(address="192.0.2.7"))
        fields = await person.log_in(begun.url, REDIRECT, cancel=cancel)
        return ProviderAnswer(
            secret=begun.secret,
            state=fields["state"],
            code=fields.get("code", ""),
            error=fields.get("error", ""),
            issuer=fields["iss"],
            browser="Firefox",
            address="192.0.2.7",
        )

    async def log_in(self, user: str = "sub-alice") -> DelegationAnswer:
        """Log in as a user of the provider, with a new browser there."""
        async with Person(user) as person:
            return await self.logins.complete(await self.answer(person))

    async def browsers(self, account: str = "alice") -> list[str]:
        """Return the ids of the account's logged-in browsers."""
        return [each.id for each in await self.web.browsers.views(account)]

    async def log_out(self, token: str) -> int:
        """Bring a logout token; the number of browsers that it has logged out."""
        answer = await self.logins.log_out(ProviderLogout(logout_token=token))
        assert answer.closed
        return answer.ended


@dataclass
class Running:
    """A provider that runs, and the listener of its issuer, for a relay."""

    listener: socket.socket
    provider: OpenIdProvider

    @property
    def issuer(self) -> str:
        return self.provider.issuer


@contextlib.contextmanager
def running_provider(**settings: Any) -> Iterator[Running]:  # noqa: ANN401 - those of OpenIdProvider
    """Run a provider, whose issuer is a relay's address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
        usual: dict[str, Any] = {"port": 0, "issuer": issuer, "redirect": REDIRECT, "logout": f"{issuer}{RECEIVER}"}
        provider = OpenIdProvider(**(usual | settings))
        with provider.running():
            yield Running(listener, provider)


@contextlib.asynccontextmanager
async def provider_world(running: Running, **oidc: object) -> AsyncIterator[ProviderWorld]:
    """Serve a controller that is the provider's client. `oidc`: settings in place of the usual ones."""
    relay, berth_web = Relay(running.listener, running.provider.port), FakeBerthWeb()
    with tempfile.TemporaryDirectory(prefix="berth-") as name:
        place = Path(name)
        (place / "secret").write_text(f"{SECRET}\n")
        (place / "accounts").write_text(accounts(relay.url, alice="sub-alice", bob="sub-bob", daemon="sub-daemon"))
        usual = {
            "issuer": relay.url,
            "client_id": CLIENT,
            "client_secret_file": place / "secret",
            "accounts_file": place / "accounts",
        }
        web = {"url": URL, "runtime_dir": place / "web", "oidc": usual | oidc}
        core = Core.make(site_config(place, web=web), FakeLauncher(FakeScheduler()))
        async with relay.serving(), berth_web.listening(core.config.web_control_socket):
            yield ProviderWorld(core, relay, running.provider, berth_web)
        core.registry.close()


def accounts(issuer: str, **subjects: str) -> str:
    """Return the text of an accounts file."""
    return "".join(f"{account} {issuer} {subject}\n" for account, subject in subjects.items())


def play(
    running: Running,
    scene: Callable[[ProviderWorld], Awaitable[None]],
    **oidc: object,
) -> None:
    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), provider_world(running, **oidc) as world:
            await scene(world)

    asyncio.run(whole())


def sign(world: ProviderWorld, claims: Claims, key: RSAKey | ECKey | None = None, **header: object) -> str:
    """Sign a token with the provider's key, or another one. `header`: fields in place of the usual ones."""
    signing = key or world.provider.keys[0]
    fields = {"alg": signing.get("alg"), "kid": signing.kid} | header
    any_use = type(signing).import_key(  # for every algorithm, not only the one that the key says
        {name: value for name, value in signing.as_dict(private=True).items() if name not in {"alg", "use"}}
    )
    registry = jws.JWSRegistry(algorithms=[str(fields["alg"])], strict_check_header=False)
    return jws.serialize_compact(fields, json.dumps(claims), any_use, registry=registry)
