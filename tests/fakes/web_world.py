"""berth-web on loopback with the real HAProxy, ssh and sshd; the controller and the services are fakes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import shutil
import ssl
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from broker.names import new_id
from broker.origins import Origins
from broker.schema.web import DoorAnswer, EndedVisits, VisitAnswer
from broker.ssh.certificates import CertificateAuthority, guest_principals, owner_principals
from broker.web import tunnel
from broker.web.process import serve_web
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes import openssh, raw_http
from tests.fakes.openssh import free_port, me, public
from tests.fakes.raw_http import Answer, Wire, request
from tests.fakes.recording_service import RecordingService
from tests.fakes.web_controller import WebController
from tests.fakes.web_settings import loopback_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from broker.web.process import WebGateway
    from broker.web.settings import WebProcessSettings

DOMAIN = "apps.localhost"
ALIAS = "alice.dev.berth"
NAVIGATION = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
OWN_PAGE = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
_SSHD_OPTIONS = ("AllowStreamLocalForwarding local", "AllowTcpForwarding local")
DOOR = """#!/bin/bash
cd {place}
echo "$SSH_ORIGINAL_COMMAND" >>commands
name=${{SSH_ORIGINAL_COMMAND#start }}
[[ -e $name.flood ]] && exec yes "output more"
[[ -e $name.flaps ]] && {{ yes $'state ready\\nstate starting' | head -n 400; touch $name.flapped; }}
[[ -e $name.refused ]] && {{ echo "refused there is no service $name in this session"; exit 1; }}
echo "socket $name.sock"
[[ " $* " == *" $name.sock "* ]] || echo reconnect
echo "state starting"
echo "output the service $name begins"
while [[ -e $name.slow ]]; do read -rt 0.05 _ || (( $? > 128 )) || exit 0; done
[[ -e $name.broken ]] && {{ echo "state failed"; echo "output no such program"; exit 1; }}
echo "state ready"
while [[ ! -e $name.stopped ]]; do read -rt 0.05 _ || (( $? > 128 )) || exit 0; done
echo "state stopped"
"""
"""The session's program for services, as broker/job/service reports. Its arguments: the sockets the login may open."""


@dataclass(frozen=True)
class Entered:
    """A browser at the origin of a service, with its cookie."""

    visit: VisitAnswer
    cookie: str

    @property
    def host(self) -> str:
        return self.visit.host


@dataclass
class WebWorld:
    """berth-web, the controller, and a session `dev` with a real sshd and the services `echo` and `other`."""

    place: Path
    settings: WebProcessSettings
    controller: WebController
    services: dict[str, RecordingService]
    sshd_port: int
    session_id: str
    authority_line: str
    """The public line of the authority whose certificates the session accepts."""
    gateway: WebGateway = field(init=False)
    tls: ssl.SSLContext | None = None
    wires: list[Wire] = field(default_factory=list)

    def use_tls(self, domain: str = DOMAIN) -> None:
        """Serve https from now on, with a certificate of its own."""
        certificate = self.place / "tls.pem"
        make_certificate(certificate, domain)
        self.settings = dataclasses.replace(
            self.settings, certificate=certificate, origins=Origins.parse(f"https://{domain}:{self.port}")
        )
        self.tls = ssl.create_default_context(cafile=str(certificate))

    @property
    def port(self) -> int:
        """The port of the origins."""
        assert self.settings.origins.port is not None
        return self.settings.origins.port

    @property
    def echo(self) -> RecordingService:
        return self.services["echo"]

    def define(self, name: str) -> None:
        """Define a service as its owner does in the session: the next login may open its socket."""
        names = [*self.services, name]
        (self.place / "sshd" / "authorized_keys").write_text(
            _authorized_key(self.place, self.session_id, self.authority_line, names)
        )

    def host(self, service: str = "echo") -> str:
        return f"{service}--dev--alice.{self.settings.origins.domain}"

    def authority(self, host: str) -> str:
        return f"{host}:{self.port}"

    def origin(self, host: str) -> str:
        return self.settings.origins.url(host)

    async def wire(self, host: str = "") -> Wire:
        listen = self.settings.listen
        place = listen if isinstance(listen, Path) else listen[1]
        wire = await raw_http.connect(place, self.tls, host or self.host())
        self.wires.append(wire)
        return wire

    async def ask(self, data: bytes, host: str = "") -> Answer:
        """The answer to these bytes, on a connection of their own."""
        wire = await self.wire(host)
        await wire.send(data)
        answer = await wire.answer()
        wire.close()
        return answer

    async def get(self, browser: Entered, path: str = "/", **headers: str) -> Answer:
        """A request of the service's own page."""
        return await self.send(browser, "GET", path, OWN_PAGE | headers)

    async def send(
        self, browser: Entered, method: str, path: str, headers: dict[str, str], body: bytes = b""
    ) -> Answer:
        headers = self.cookie(browser) | headers
        return await self.ask(request(method, path, self.authority(browser.host), headers, body))

    def cookie(self, browser: Entered) -> dict[str, str]:
        return {"Cookie": f"__Host-Http-berth={browser.cookie}"}

    async def navigate(self, host: str, path: str = "/", **headers: str) -> Answer:
        return await self.ask(request("GET", path, self.authority(host), NAVIGATION | headers))

    async def websocket(self, browser: Entered, **headers: str) -> tuple[Answer, Wire]:
        """A WebSocket to the echo of the service, or its refusal."""
        wire = await self.wire(browser.host)
        usual = {
            "Connection": "keep-alive, Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Origin": self.origin(browser.host),
        }
        headers = self.cookie(browser) | usual | headers
        await wire.send(request("GET", "/ws", self.authority(browser.host), headers))
        return await wire.head(), wire

    def visit(self, service: str = "echo", *, seconds: float = 3600, user: str = "alice") -> VisitAnswer:
        return self.controller.visit(self.host(service), service, self.session_id, seconds=seconds, user=user)

    async def entered(
        self, service: str = "echo", *, seconds: float = 3600, path: str = "/", user: str = "alice"
    ) -> Entered:
        """A browser that has come through the portal, until its service is open."""
        return await self.enter_until_open(self.visit(service, seconds=seconds, user=user), path)

    async def enter_until_open(self, visit: VisitAnswer, path: str = "/") -> Entered:
        """The same for a visit that there is already."""
        browser = await self.enter(visit, path)
        async with asyncio.timeout(TEST_DEADLINE_S):
            while (await self.navigate(visit.host, **self.cookie(browser))).status != 200:  # noqa: ASYNC110 - HAProxy sets no Event
                await asyncio.sleep(0.02)
        self.services[visit.service].heads.clear()
        self.services[visit.service].bodies.clear()
        return browser

    async def enter(self, visit: VisitAnswer, path: str = "/") -> Entered:
        """The way of a browser from the service's origin to the portal and back."""
        first = await self.navigate(visit.host, path)
        assert first.status == 303, first
        entry = cookie_of(first, "__Host-Http-berth-entry")
        query = parse_qs(urlsplit(first.header("location")).query)
        assert query["host"] == [visit.host]
        assert query["entry"] == [hashlib.sha256(entry.encode()).hexdigest()]
        code = self.gateway.entrances.admit(visit, query["entry"][0])
        back = await self.navigate(
            visit.host,
            f"/.berth/enter?code={code}&path={quote(query['path'][0], safe='')}",
            Cookie=f"__Host-Http-berth-entry={entry}",
        )
        assert back.status == 303, back
        assert back.header("location") == path
        return Entered(visit, cookie_of(back, "__Host-Http-berth"))

    async def enter_by_portal(self, visit: VisitAnswer) -> Entered:
        """The same where berth-web is a process of its own: the code comes from its portal."""
        first = await self.navigate(visit.host)
        entry = cookie_of(first, "__Host-Http-berth-entry")
        login = f"__Host-Http-berth-portal={visit.secret}"
        lead = await self.navigate(self.settings.origins.portal_host, _target(first), Cookie=login)
        back = await self.navigate(visit.host, _target(lead), Cookie=f"__Host-Http-berth-entry={entry}")
        return Entered(visit, cookie_of(back, "__Host-Http-berth"))

    async def close(self, **ended: list[str]) -> None:
        """The controller's message."""
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.settings.control_socket))
        ) as client:
            body = EndedVisits(**ended).model_dump()
            assert (await client.post("http://berth-web/v1/close", json=body, timeout=60)).status_code == 200

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """berth-web serves during the block."""
        async with serve_web(self.settings) as self.gateway:
            try:
                yield
            finally:
                for wire in self.wires:
                    wire.close()


@contextlib.asynccontextmanager
async def web_world(**settings: Any) -> AsyncIterator[WebWorld]:  # noqa: ANN401 - any of WebProcessSettings
    """All but berth-web itself. The directory's name is short: paths of sockets are limited."""
    openssh.require()
    assert shutil.which("haproxy", path="/usr/sbin:/usr/bin"), "install haproxy: these tests need the real program"
    place = Path(tempfile.mkdtemp(prefix="bw", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as cleaning:
        cleaning.callback(shutil.rmtree, place, ignore_errors=True)
        patch.setattr(tunnel, "SOCKETS", str(place / "s"))
        session_id, authority = new_id(), CertificateAuthority.load_or_create(place / "ca" / "key")
        for name in ("s", "sshd", "run"):
            (place / name).mkdir()
        host_key = openssh.make_key(place / "sshd" / "host")
        line = authority.sign_host(public(host_key), [ALIAS], valid_seconds=3600, serial=1, key_id="dev")
        (place / "sshd" / "host-cert.pub").write_text(f"{line}\n")
        (place / "door").write_text(DOOR.format(place=place))
        (place / "door").chmod(0o700)
        key_line = _authorized_key(place, session_id, authority.public_line, ["echo", "other"])
        async with (
            openssh.sshd(place / "sshd", key_line, *_SSHD_OPTIONS) as sshd_port,
            contextlib.AsyncExitStack() as stack,
        ):

            def door(visit: VisitAnswer, key: str) -> DoorAnswer:
                certificate = authority.sign_web(
                    key, _principals(visit), sources=["127.0.0.1/32"], valid_seconds=300, serial=1, key_id="web"
                )
                return DoorAnswer(
                    host="127.0.0.1",
                    port=sshd_port,
                    host_key_alias=ALIAS,
                    known_hosts=[f"@cert-authority {ALIAS} {authority.public_line}"],
                    login=me(),
                    certificate=certificate,
                )

            controller = await stack.enter_async_context(WebController(place / "api.sock", door))
            services = {
                name: await stack.enter_async_context(RecordingService(place / "s" / f"{name}.sock"))
                for name in ("echo", "other")
            }
            usual = loopback_settings(
                f"http://{DOMAIN}:{free_port()}", api_socket=place / "api.sock", directory=place / "run"
            )
            chosen = dataclasses.replace(usual, **settings)
            yield WebWorld(place, chosen, controller, services, sshd_port, session_id, authority.public_line)


def _principals(visit: VisitAnswer) -> list[str]:
    if visit.user == visit.owner:
        return owner_principals(visit.session_id)
    return guest_principals(visit.session_id, visit.service)


def allow_sessions(world: WebWorld, session_ids: list[str]) -> None:
    """Let the world's sshd be that of these sessions, too."""
    lines = [_authorized_key(world.place, each, world.authority_line, [*world.services]) for each in session_ids]
    (world.place / "sshd" / "authorized_keys").write_text("\n".join([*lines, ""]))


def _authorized_key(place: Path, session_id: str, authority: str, services: list[str]) -> str:
    """The lines that let berth-web's certificates reach the sockets of these services, and run the door: those for
    visits of the owner all of them, those for visits of a guest one.
    """
    all_sockets = " ".join(f"{name}.sock" for name in services)
    lines = [(f"web:{session_id}", all_sockets)]
    lines += [(f"web:{session_id}:{name}", f"{name}.sock") for name in services]
    return "\n".join(_door_line(place, *each, authority) for each in lines)


def _door_line(place: Path, principal: str, sockets: str, authority: str) -> str:
    opens = ",".join(f'permitopen="[{place}/s/{socket}]:*"' for socket in sockets.split())
    options = f'cert-authority,principals="{principal}",restrict,port-forwarding,command="{place}/door {sockets}"'
    return f"{options},{opens} {authority}"


def play_web(
    scene: Callable[[WebWorld], Awaitable[None]],
    *,
    tls: bool = False,
    seconds: float = TEST_DEADLINE_S,
    **settings: Any,  # noqa: ANN401 - as above
) -> None:
    """Play a scene in a world in which berth-web serves, on request with TLS. `seconds`: its deadline."""

    async def whole() -> None:
        async with asyncio.timeout(seconds), web_world(**settings) as world:
            if tls:
                world.use_tls()
            async with world.serving():
                await scene(world)

    asyncio.run(whole())


def make_certificate(path: Path, domain: str) -> None:
    """Write a private key and its certificate for all names below the domain, as a site would."""
    key = path.with_suffix(".key")
    names = ["-subj", f"/CN={domain}", "-addext", f"subjectAltName=DNS:*.{domain}"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *kind, *names, "-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + key.read_bytes())


def _target(answer: Answer) -> str:
    """Path and query of where an answer leads."""
    assert answer.status == 303, answer
    parts = urlsplit(answer.header("location"))
    return f"{parts.path}?{parts.query}"


def cookie_of(answer: Answer, name: str) -> str:
    """The value that the answer gives a cookie, with the attributes that each of ours has."""
    for line in answer.headers_of("set-cookie"):
        key, _, rest = line.partition("=")
        if key == name:
            value, *attributes = [part.strip() for part in rest.split(";")]
            assert {"Path=/", "Secure", "HttpOnly", "SameSite=lax"} <= set(attributes), line
            assert not any(each.lower().startswith("domain") for each in attributes)
            return value.strip('"')
    raise AssertionError(answer)
