"""Keys and certificates let users in, in sessions and at the gateway; with a real sshd."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import NotFoundError, RefusedError
from tests.deadlines import TEST_DEADLINE_S
from tests.fakes import openssh
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.openssh import me, public, run
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def key(comment: str = "") -> str:
    made = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
    return made.export_public_key().decode().strip()


def play(place: Path, scene: Callable[[Core], Awaitable[None]], **ssh: Any) -> None:  # noqa: ANN401 - settings
    async def whole() -> None:
        core = Core.make(site_config(place, ssh=ssh), FakeLauncher(FakeScheduler()))
        async with asyncio.timeout(TEST_DEADLINE_S):
            await scene(core)

    asyncio.run(whole())


@pytest.mark.parametrize(
    ("login_with", "keys", "authorities"), [("keys", 1, 0), ("certificates", 0, 2), ("both", 1, 2)]
)
def test_what_the_site_wants_lets_in(tmp_path: Path, login_with: str, keys: int, authorities: int) -> None:
    async def scene(core: Core) -> None:
        core.launcher.authorized_keys["alice"] = key()
        login = await core.logins.of("alice")
        assert (len(login.keys), len(login.authorities), login.revoked) == (keys, authorities, [])
        assert login.files["authorized_keys"].count('cert-authority,principals="alice" ssh-ed25519 ') == authorities
        core.launcher.failures["keys"] = LauncherError("missing", "there is no such user")
        nobody = await core.logins.of("nobody")
        assert (nobody.keys, nobody.authorities) == ([], [])

    play(tmp_path, scene, login_with=login_with, user_ca_keys=[key("the site's own")])


def test_where_keys_do_not_open_none_can_be_added_and_the_other_way_round(tmp_path: Path) -> None:
    async def certificates(core: Core) -> None:
        with pytest.raises(RefusedError, match="accepts certificates"):
            await core.keys.add("alice", key())

    async def keys(core: Core) -> None:
        with pytest.raises(RefusedError, match="accepts keys"):
            await core.logins.sign("alice", key(), None)

    play(tmp_path, certificates, login_with="certificates")
    (tmp_path / "other").mkdir()
    play(tmp_path / "other", keys)


def test_a_certificate_is_no_longer_than_the_site_allows(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        for hours, wanted in ((None, 8), (2, 2), (100, 8)):
            answer = await core.logins.sign("alice", key(), hours)
            assert abs(answer.view.valid_before - time.time() - wanted * 3600) < 60
            made = tmp_path / "cert.pub"
            made.write_text(answer.certificate)
            said = (await run(["ssh-keygen", "-L", "-f", made])).out.decode()
            assert "user certificate" in said
            assert "Principals: \n                alice\n" in said
            assert f"Serial: {answer.view.serial}" in said

    play(tmp_path, scene, login_with="both", user_certificate_hours=8)


def test_a_revoked_key_is_told_until_its_certificates_end_or_it_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock().install(monkeypatch)

    async def scene(core: Core) -> None:
        laptop, desk = key("laptop"), key("desk")
        for each in (laptop, desk):
            await core.logins.sign("alice", each, None)
        digest = (await core.logins.of("alice")).digest
        (first,) = [view for view in await core.logins.certificates("alice") if view.comment == "laptop"]
        with pytest.raises(NotFoundError):
            await core.logins.revoke("bob", first.fingerprint)
        assert [view.comment for view in await core.logins.revoke("alice", first.fingerprint)] == ["laptop"]
        login = await core.logins.of("alice")
        assert login.revoked == [laptop]
        assert login.files["revoked_keys"] == f"{laptop}\n"
        assert login.digest != digest
        assert [view.comment for view in await core.logins.revoke("alice", None)] == ["desk"]
        assert await core.logins.revoke("alice", None) == []
        await core.logins.sign("alice", desk, None)
        assert (await core.logins.of("alice")).revoked == [laptop]
        clock.now += 16 * 3600 + 1
        assert (await core.logins.of("alice")).revoked == []
        assert await core.logins.certificates("alice") == []

    play(tmp_path, scene, login_with="both")


def test_a_shorter_certificate_does_not_hide_a_longer_one(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        laptop = key()
        long = await core.logins.sign("alice", laptop, 10)
        await core.logins.sign("alice", laptop, 1)
        (view,) = await core.logins.certificates("alice")
        assert view.valid_before == long.view.valid_before

    play(tmp_path, scene, login_with="both")


def test_a_key_that_opens_by_itself_is_not_shut_out_by_a_revocation(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        laptop = key()
        core.launcher.authorized_keys["alice"] = laptop
        await core.logins.sign("alice", laptop, None)
        await core.logins.revoke("alice", None)
        assert (await core.logins.of("alice")).revoked == []

    play(tmp_path, scene, login_with="both")


def test_a_sessions_sshd_goes_by_what_it_is_told(tmp_path: Path) -> None:
    """The very files, read by the real sshd as session.sh has it read them."""

    async def scene(core: Core) -> None:
        laptop, place = openssh.make_key(tmp_path / "laptop"), tmp_path / "session"
        place.mkdir()
        revoked = place / "revoked_keys"
        revoked.touch()
        certificate = tmp_path / "laptop-cert.pub"
        options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]

        async def gets_in(port: int) -> bool:
            ssh = ["ssh", "-F", "none", *options, "-i", str(laptop), "-p", str(port), f"{me()}@127.0.0.1", "true"]
            return (await run(ssh)).code == 0

        async def told() -> None:
            for name, text in (await core.logins.of(me())).files.items():
                (place / name).write_text(text)

        async with openssh.sshd(place, "", f"RevokedKeys {revoked}") as port:
            await told()
            assert not await gets_in(port), "a key alone"
            certificate.write_text((await core.logins.sign(me(), public(laptop), None)).certificate)
            assert await gets_in(port)
            certificate.write_text((await core.logins.sign("somebody-else", public(laptop), None)).certificate)
            assert not await gets_in(port), "another user's"
            certificate.write_text((await core.logins.sign(me(), public(laptop), None)).certificate)
            await core.logins.revoke(me(), None)
            await told()
            assert not await gets_in(port), "revoked"
            await core.logins.sign(me(), public(laptop), None)
            await told()
            assert await gets_in(port), "certified anew"
            core.user_authority.keys.switch(overlap=0)
            await told()
            assert await gets_in(port), "signed by the key before"
            former = core.user_authority.keys.all[1]
            core.user_authority.keys.retire(former.public.fingerprint, in_use=0)
            await told()
            assert not await gets_in(port), "signed by a key that is retired"

    play(tmp_path, scene, login_with="certificates")
