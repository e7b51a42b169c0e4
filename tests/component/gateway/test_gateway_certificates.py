"""Logging in to the gateway with certificates: real ssh, and what it must refuse."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from broker.ssh.certificates import UserCertificate
from tests.fakes import openssh
from tests.fakes.gateway_world import World, play, until
from tests.fakes.openssh import me, public

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600


def authority(kind: str = "ssh-ed25519", **options: Any) -> asyncssh.SSHKey:  # noqa: ANN401 - asyncssh's own
    return asyncssh.generate_private_key(kind, **options)


def line(key: asyncssh.SSHKey) -> str:
    return key.export_public_key().decode().strip()


def certified(w: World, ca: asyncssh.SSHKey, **changes: Any) -> asyncssh.SSHCertificate:  # noqa: ANN401 - asyncssh's own
    """A certificate for the laptop's key, right in every way but for the changes."""
    key = changes.pop("key", None) or asyncssh.read_public_key(str(w.key) + ".pub")
    now = int(time.time())
    usual: dict[str, Any] = {"principals": [me()], "valid_after": now - 60, "valid_before": now + HOUR}
    return ca.generate_user_certificate(key, "a laptop", **usual | changes)


async def gets_in(w: World, certificate: asyncssh.SSHCertificate) -> bool:
    """To the session's sshd, which has the laptop's key, with nothing but the certificate at the gateway."""
    private = asyncssh.read_private_key(str(w.key))
    try:
        async with await w.client(client_keys=[(private, certificate)]) as client:
            reader, _ = await client.open_connection(w.canonical, 22)
            first: bytes = await reader.readline()
    except (asyncssh.PermissionDenied, asyncssh.ChannelOpenError):
        return False
    return first.startswith(b"SSH-2.0-OpenSSH")


def trusting(w: World, *authorities: asyncssh.SSHKey) -> None:
    """No key lets in by itself."""
    w.controller.keys.clear()
    w.controller.authorities = [line(each) for each in authorities]


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
def test_openssh_gets_in_with_a_certificate_beside_its_key(
    place: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "broker")

    async def scene(w: World) -> None:
        ca = authority(kind)
        trusting(w, ca)
        assert (await w.ssh("dev.berth", "true")).code == 255
        certified(w, ca).write_certificate(f"{w.key}-cert.pub")
        done = await w.ssh("dev.berth", "echo here")
        assert (done.code, done.out) == (0, b"here\n"), done.err
        assert "event=login" in caplog.text
        assert 'certificate="a laptop serial 0"' in caplog.text
        await until(lambda: w.controller.connections)
        (record,) = w.controller.connections.values()
        assert record.fingerprint == UserCertificate.parse(certified(w, ca).public_data).key.fingerprint

    play(place, scene)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_every_kind_of_key_can_be_certified(place: Path, kind: str) -> None:
    async def scene(w: World) -> None:
        ca = authority()
        trusting(w, ca)
        key = openssh.make_key(w.place / "other", kind)
        certificate = certified(w, ca, key=asyncssh.read_public_key(f"{key}.pub"))
        found = UserCertificate.parse(certificate.public_data)
        assert (found.key.line, found.principals) == (" ".join(public(key).split()[:2]), (me(),))
        certificate.write_certificate(f"{key}-cert.pub")
        options = ["-o", f"IdentityFile={key}", "-o", "IdentitiesOnly=yes", "-W", f"{w.canonical}:22"]
        done = await w.ssh(*options, "berth-gateway")
        assert done.out.startswith(b"SSH-2.0-OpenSSH"), done.err

    play(place, scene)


WRONG: dict[str, dict[str, Any]] = {
    "another user's": {"principals": ["mallory", "trent"]},
    "nobody's": {"principals": []},
    "over": {"valid_after": 1, "valid_before": 2},
    "not yet": {"valid_after": 2**40, "valid_before": 2**41},
    "from elsewhere": {"source_address": ["192.0.2.0/24"]},
    "without forwarding": {"permit_port_forwarding": False},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_certificate_that_is_not_for_this_lets_nobody_in(place: Path, what: str) -> None:
    async def scene(w: World) -> None:
        ca = authority()
        trusting(w, ca)
        assert await gets_in(w, certified(w, ca)), "the right one must get in, or this shows nothing"
        assert not await gets_in(w, certified(w, ca, **WRONG[what]))

    play(place, scene)


def test_one_from_here_may_come_from_here(place: Path) -> None:
    async def scene(w: World) -> None:
        ca = authority()
        trusting(w, ca)
        assert await gets_in(w, certified(w, ca, source_address=["127.0.0.0/8"]))

    play(place, scene)


def test_only_the_authorities_of_now_are_believed(place: Path) -> None:
    async def scene(w: World) -> None:
        ours, sites, strangers = authority(), authority("ecdsa-sha2-nistp384"), authority()
        trusting(w, ours, sites)
        assert await gets_in(w, certified(w, ours))
        assert await gets_in(w, certified(w, sites))
        assert not await gets_in(w, certified(w, strangers))
        trusting(w, sites)
        assert not await gets_in(w, certified(w, ours)), "retired"
        trusting(w)
        assert not await gets_in(w, certified(w, sites)), "a site that takes no certificates"

    play(place, scene)


def test_a_revoked_key_does_not_get_in(place: Path) -> None:
    async def scene(w: World) -> None:
        ca = authority()
        trusting(w, ca)
        w.controller.revoked = [public(w.key)]
        assert not await gets_in(w, certified(w, ca))

    play(place, scene)


def test_an_authoritys_own_key_lets_nobody_in(place: Path) -> None:
    async def scene(w: World) -> None:
        ca = authority()
        trusting(w, ca)
        with pytest.raises(asyncssh.PermissionDenied):
            await w.client(client_keys=[ca])

    play(place, scene)


def test_a_host_certificate_is_no_users(place: Path) -> None:
    async def scene(w: World) -> None:
        ca = authority()
        trusting(w, ca)
        key = asyncssh.read_public_key(str(w.key) + ".pub")
        assert not await gets_in(w, ca.generate_host_certificate(key, "x", principals=[me()]))

    play(place, scene)


def test_a_signature_with_sha_1_is_not_believed(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "broker")

    async def scene(w: World) -> None:
        ca = authority("ssh-rsa")
        trusting(w, ca)
        assert await gets_in(w, certified(w, ca, sig_alg="rsa-sha2-256"))
        assert not await gets_in(w, certified(w, ca, sig_alg="ssh-rsa"))
        assert "signed with ssh-rsa" in caplog.text

    play(place, scene)


def test_without_the_controller_certificates_are_good_as_they_were(place: Path) -> None:
    async def scene(w: World) -> None:
        ca = authority()
        trusting(w, ca)
        assert await gets_in(w, certified(w, ca))
        await w.controller.stop()
        assert await gets_in(w, certified(w, ca))
        assert not await gets_in(w, certified(w, authority()))

    play(place, scene)


@pytest.mark.parametrize("cut", [0, 1, 40, 200, -1])
def test_what_is_cut_off_is_no_certificate(cut: int) -> None:
    key = authority()
    blob = key.generate_user_certificate(key, "x", principals=[me()]).public_data
    with pytest.raises(ValueError, match=r"ends|known kind"):
        UserCertificate.parse(blob[:cut])


def test_a_key_that_is_too_weak_cannot_be_certified() -> None:
    weak = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    certificate = authority().generate_user_certificate(weak, "x", principals=[me()])
    with pytest.raises(ValueError, match="RSA keys must have"):
        UserCertificate.parse(certificate.public_data)
