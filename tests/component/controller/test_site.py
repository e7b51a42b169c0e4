"""The site tells clients which host keys to trust, and real ssh acts on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.client import ssh_config
from broker.controller.registry.registry import JobChange
from broker.errors import ConflictError
from broker.schema.sessions import SessionState
from broker.ssh.host_names import SessionHost
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes import openssh
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.openssh import me, public, run
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from broker.controller.site import Site
    from broker.ssh.certificates import CertificateAuthority


def play(place: Path, scene: Callable[[Core, Site], Awaitable[None]], **ssh: Any) -> None:  # noqa: ANN401 - settings
    async def whole() -> None:
        core = Core.make(site_config(place, ssh=ssh), FakeLauncher(FakeScheduler()))
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(core, core.site)

    asyncio.run(whole())


async def certified(place: Path, authority: CertificateAuthority) -> None:
    """The session's host key, and a certificate for it."""
    host = place / "host"
    if not host.exists():
        openssh.make_key(host)
    names = SessionHost(me(), "dev").principals("berth")
    line = authority.sign_host(public(host), names, valid_seconds=600, serial=7, key_id="dev")
    (place / "host-cert.pub").write_text(line + "\n")


class Laptop:
    """Real ssh with the files of `berth ssh-config`, straight to a session's sshd."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.key = openssh.make_key(place / "laptop")

    async def fetch(self, site: Site) -> None:
        self.config = ssh_config.write_ssh_config(
            self._place / "ssh", await site.view(me()), ssh_config.Route.LOCAL, identity_file=self.key
        )

    async def believes(self, port: int) -> bool:
        where = ["-o", "ProxyCommand=none", "-o", "HostName=127.0.0.1", "-p", str(port)]
        alias = ["-o", f"HostKeyAlias={me()}.dev.berth", "-o", "BatchMode=yes"]
        done = await run(["ssh", "-F", self.config, *where, *alias, "dev.berth", "true"])
        assert done.code == 0 or "verification failed" in done.err or "REVOKED" in done.err, done.err
        return done.code == 0


def test_clients_learn_the_next_key_before_it_signs_and_believe_the_last_one_after(tmp_path: Path) -> None:
    async def scene(core: Core, site: Site) -> None:
        laptop, late, place = Laptop(tmp_path), Laptop(_made(tmp_path / "late")), _made(tmp_path / "session")
        await late.fetch(site)
        await certified(place, core.authority)
        assert site.rotate("host", now=False).standing == "announced"
        await laptop.fetch(site)
        with pytest.raises(ConflictError, match=r"may sign in 1[34] d"):
            site.rotate("host", now=False)
        async with openssh.sshd(place, f"{public(laptop.key)}\n{public(late.key)}") as port:
            assert await laptop.believes(port)
        assert site.rotate("host", now=True).standing == "signing"
        async with openssh.sshd(place, public(laptop.key)) as port:
            assert await laptop.believes(port), "a session that runs has a certificate of the last key"
        await certified(place, core.authority)
        async with openssh.sshd(place, f"{public(laptop.key)}\n{public(late.key)}") as port:
            assert await laptop.believes(port), "it has learnt the key while it was announced"
            assert not await late.believes(port), "who has not must fetch it"
            await late.fetch(site)
            assert await late.believes(port)

    play(tmp_path, scene)


def test_a_key_that_is_retired_is_not_believed(tmp_path: Path) -> None:
    async def scene(core: Core, site: Site) -> None:
        laptop, place = Laptop(tmp_path), _made(tmp_path / "session")
        await certified(place, core.authority)
        former = site.authorities()[0].fingerprint
        site.rotate("host", now=True)
        with pytest.raises(ConflictError, match=r"may be valid for another (29|30) d"):
            site.retire("host", former, now=False)
        await laptop.fetch(site)
        async with openssh.sshd(place, public(laptop.key)) as port:
            assert await laptop.believes(port)
            site.retire("host", former, now=True)
            await laptop.fetch(site)
            assert not await laptop.believes(port)

    play(tmp_path, scene)


def test_the_users_authority_needs_no_announcement(tmp_path: Path) -> None:
    async def scene(core: Core, site: Site) -> None:
        first = core.user_authority.public_line
        assert site.rotate("user", now=False).standing == "signing"
        assert core.user_authority.trusted_lines[1] == first
        assert [(key.kind, key.standing) for key in site.authorities()] == [
            ("host", "signing"),
            ("user", "signing"),
            ("user", "former"),
        ]

    play(tmp_path, scene)


@contextlib.asynccontextmanager
async def believed_sshd(core: Core, laptop: Laptop, place: Path) -> AsyncIterator[int]:
    """Yield the port of an sshd with the host key of the stopped session `dev`, which the laptop believes."""
    await certified(place, core.authority)
    session = await core.stopped(user=me())
    core.registry.update(session.id, lambda _: ({"host_key": public(place / "host")}, None))
    await laptop.fetch(core.site)
    async with openssh.sshd(place, public(laptop.key)) as port:
        assert await laptop.believes(port)
        yield port


def test_the_host_key_of_a_deleted_session_is_revoked(tmp_path: Path) -> None:
    """For its owner's clients, for as long as a certificate for it may be valid; a restored session has another one."""

    async def scene(core: Core, site: Site) -> None:
        laptop, place = Laptop(tmp_path), _made(tmp_path / "session")
        async with believed_sshd(core, laptop, place) as port:
            await core.sessions.delete(me(), "dev")
            await core.tick()
            assert core.registry.find(me(), "dev") is None
            await laptop.fetch(site)
            assert not await laptop.believes(port)
        assert (await site.view("bob")).revoked_host_keys == []
        await core.deleted.restore(me(), "dev", None)
        await core.settle()
        back = core.row(user=me())
        assert back.state is SessionState.STOPPED
        assert back.host_key != public(place / "host")
        assert (await site.view(me())).revoked_host_keys == [public(place / "host")]

    play(tmp_path, scene)


def test_the_former_host_key_of_a_renamed_session_is_revoked(tmp_path: Path) -> None:
    """Else it could present itself as another session that gets the former name."""

    async def scene(core: Core, site: Site) -> None:
        laptop, place = Laptop(tmp_path), _made(tmp_path / "session")
        async with believed_sshd(core, laptop, place) as port:
            await core.rename.rename(me(), "dev", "thesis")
            await laptop.fetch(site)
            assert not await laptop.believes(port)
        assert core.row("thesis", me()).host_key != public(place / "host")

    play(tmp_path, scene)


def test_what_no_certificate_can_be_valid_for_is_not_told(tmp_path: Path) -> None:
    async def scene(core: Core, site: Site) -> None:
        session = await core.stopped(user=me())
        long_ago = time.time() - 31 * 86400
        core.registry.update(session.id, lambda _: JobChange({}, None, job={"submitted_at": long_ago}))
        await core.sessions.delete(me(), "dev", purge=True)
        await core.tick()
        assert (await site.view(me())).revoked_host_keys == []

    play(tmp_path, scene)


def _made(path: Path) -> Path:
    path.mkdir()
    return path
