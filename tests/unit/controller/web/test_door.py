"""The door: a certificate of minutes for one session, as long as it is visited."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.errors import ConflictError, InvalidInputError, NotFoundError
from broker.schema.web import DoorRequest
from broker.ssh.certificates import CLOCK_SKEW_S, UserCertificate
from broker.ssh.keys import PublicKey
from tests.fakes.openssh import run
from tests.unit.controller.web.browser_of import SOURCES, visit, web_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.core import Clock, Core


def public_key() -> str:
    return asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()


def lifetime_s(certificate: str) -> int:
    parsed = UserCertificate.parse(asyncssh.import_certificate(certificate).public_data)
    return parsed.valid_before - parsed.valid_after - CLOCK_SKEW_S


async def described(directory: Path, certificate: str) -> str:
    """Return what ssh-keygen says of the certificate."""
    file = directory / "key-cert.pub"
    file.write_text(certificate)
    return (await run(["ssh-keygen", "-L", "-f", file])).out.decode()


def test_certificate_opens_one_session_for_forwarding_only(web_core: Core, tmp_path: Path) -> None:
    async def scenario() -> None:
        session, opened = await web_core.ready(), await visit(web_core)
        answer = await web_of(web_core).door.open(DoorRequest(visit=opened.secret, public_key=public_key()))
        assert session.endpoint is not None
        assert (answer.host, answer.port, answer.login) == (session.endpoint.node, session.endpoint.port, "berth-web")
        words = (await described(tmp_path, answer.certificate)).split()
        principals = words[words.index("Principals:") + 1 : words.index("Critical")]
        assert principals == [f"web:{session.id}"]
        options = words[words.index("Options:") + 1 : words.index("Extensions:")]
        assert options == ["source-address", *SOURCES]
        assert words[words.index("Extensions:") + 1 :] == ["permit-port-forwarding"]
        assert web_core.web_authority is not None
        assert PublicKey.parse(web_core.web_authority.public_line).fingerprint in words

    asyncio.run(scenario())


def test_host_is_known_by_the_sessions_own_name(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.ready()
        opened = await visit(web_core)
        answer = await web_of(web_core).door.open(DoorRequest(visit=opened.secret, public_key=public_key()))
        assert answer.host_key_alias == "alice.dev.berth"
        authority = " ".join(web_core.authority.public_line.split()[:2])
        assert answer.known_hosts == [f"@cert-authority alice.dev.berth {authority}"]

    asyncio.run(scenario())


def test_certificate_ends_with_the_visit(web_core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        await web_core.ready()
        opened, door = await visit(web_core), web_of(web_core).door
        request = DoorRequest(visit=opened.secret, public_key=public_key())
        assert lifetime_s((await door.open(request)).certificate) == 300
        clock.now = opened.expires_at - 100
        assert 99 <= lifetime_s((await door.open(request)).certificate) <= 100
        clock.now = opened.expires_at
        with pytest.raises(NotFoundError, match="ended"):
            await door.open(request)

    asyncio.run(scenario())


def test_session_gets_the_authority_before_the_certificate_is_used(web_core: Core) -> None:
    async def scenario() -> None:
        session, opened = await web_core.ready(), await visit(web_core)
        assert web_core.web_authority is not None
        first = web_core.web_authority.public_line
        assert (await web_core.logins.of("alice")).files["web_authority"] == f"{first}\n"
        web_core.site.rotate("web", now=False)
        await web_of(web_core).door.open(DoorRequest(visit=opened.secret, public_key=public_key()))
        assert web_core.row().keys_digest != session.keys_digest
        both = web_core.web_authority.trusted_lines
        assert both[1] == first
        assert (await web_core.logins.of("alice")).files["web_authority"] == "".join(f"{line}\n" for line in both)

    asyncio.run(scenario())


def test_session_that_is_not_ready_says_so(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.start()
        opened = await visit(web_core)
        request = DoorRequest(visit=opened.secret, public_key=public_key())
        with pytest.raises(ConflictError, match="dev is queued"):
            await web_of(web_core).door.open(request)
        with pytest.raises(NotFoundError, match="ended"):
            await web_of(web_core).door.open(request.model_copy(update={"visit": "x" * 43}))

    asyncio.run(scenario())


def test_wrong_key_is_refused(web_core: Core) -> None:
    async def scenario() -> None:
        await web_core.ready()
        opened = await visit(web_core)
        with pytest.raises(InvalidInputError):
            await web_of(web_core).door.open(DoorRequest(visit=opened.secret, public_key="ssh-ed25519 AAAA"))

    asyncio.run(scenario())


def test_site_without_web_access_has_no_authority(core: Core) -> None:
    async def scenario() -> None:
        assert core.web is None
        assert (await core.logins.of("alice")).files["web_authority"] == ""
        assert [key.kind for key in core.site.authorities()] == ["host", "user"]
        with pytest.raises(NotFoundError, match="no web access"):
            core.site.rotate("web", now=True)
        assert not list(core.config.state_dir.glob("web_ca*"))

    asyncio.run(scenario())


def test_session_gets_what_its_user_has_added_once(web_core: Core) -> None:
    async def scenario() -> None:
        session, opened = await web_core.ready(), await visit(web_core)
        files = web_core.launcher.directories["alice", session.id].files
        asked = DoorRequest(visit=opened.secret, public_key=public_key())

        async def installed(listed: str) -> str | None:
            files.pop("own_services", None)
            files["listed"] = listed
            await web_of(web_core).door.open(asked)
            return files.get("own_services")

        text = "services: [{name: mine, command: exec mine}]"
        listed = f"1.0\nberth-services 1\nfile {len(text)} mine.yaml\n{text}"
        assert await installed("") is None
        assert (await installed(listed) or "").startswith("name=mine\ncommand=exec mine\nsocket=mine.sock\n")
        assert await installed(listed) is None  # it has it
        assert await installed("1.0\nberth-services 1\n") == ""

    asyncio.run(scenario())
