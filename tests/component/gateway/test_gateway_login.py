"""Logins at the gateway with real OpenSSH: which keys, names and algorithms are believed, and which are not."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from broker.gateway.audit import ClientIdentity, ConnectionAudit
from broker.gateway.connection import GatewayConnection
from broker.gateway.counters import Counters
from broker.gateway.guests import GuestRelays
from broker.gateway.keys import CredentialsCache
from broker.gateway.live_connections import LiveConnections
from broker.gateway.response_cache import ResponseCache
from broker.gateway.server import Gateway
from broker.gateway.settings import GatewaySettings
from broker.gateway.usage import Usage
from broker.gateway.verifier import EndpointVerifier
from broker.schema.login import GatewayKeys
from tests.deadlines import DEADLINE_S
from tests.fakes import openssh
from tests.fakes.gateway_world import World, play
from tests.fakes.openssh import me, public, run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_wrong_key_and_an_unknown_user_look_the_same(place: Path) -> None:
    async def scene(w: World) -> None:
        stranger = openssh.make_key(w.place / "stranger")
        w.controller.keys["bob"] = [public(openssh.make_key(w.place / "bob"))]
        options = [
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]
        options += ["-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-p", str(w.gateway.port)]
        told = set()
        for key, user in [(stranger, me()), (stranger, "nobody-here"), (w.key, "bob"), (w.key, "No-Such-Name")]:
            done = await run(["ssh", *options, "-i", key, "-l", user, "127.0.0.1", "-W", "dev.berth:22"])
            assert done.code == 255
            told.add(done.err.replace(user, "USER"))
        assert told == {"USER@127.0.0.1: Permission denied (publickey).\r\n"}

    play(place, scene)


def test_keys_come_and_go_without_a_restart(place: Path) -> None:
    async def scene(w: World) -> None:
        lines = w.controller.keys.pop(me())
        assert (await w.ssh("dev.berth", "true")).code == 255
        w.controller.keys[me()] = lines
        assert (await w.ssh("dev.berth", "true")).code == 0

    play(place, scene)


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
def test_other_kinds_of_keys_log_in_too(place: Path, kind: str) -> None:
    async def scene(w: World) -> None:
        key = openssh.make_key(w.place / kind, kind)
        w.controller.keys[me()] = [public(key)]
        async with await w.client(client_keys=[str(key)]) as client:
            reader, _ = await client.open_connection(w.canonical, 22)
            assert (await reader.readline()).startswith(b"SSH-2.0-")

    play(place, scene)


def test_a_signature_with_sha1_is_not_believed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither wanted nor, from a client that does not care what is wanted, taken."""
    monkeypatch.setattr(asyncssh.SSHClientConnection, "_choose_signature_alg", lambda _, pair: _use_sha1(pair))

    def _use_sha1(pair: asyncssh.SSHKeyPair) -> bool:
        pair.set_sig_algorithm(b"ssh-rsa")
        return True

    async def scene(w: World) -> None:
        key = openssh.make_key(w.place / "rsa", "rsa")
        w.controller.keys[me()] = [public(key)]
        with pytest.raises(asyncssh.PermissionDenied):
            await w.client(client_keys=[str(key)])
        monkeypatch.undo()
        (await w.client(client_keys=[str(key)])).abort()

    play(place, scene)


def test_a_gateway_or_session_with_another_name_is_not_believed(place: Path) -> None:
    async def scene(w: World) -> None:
        session = w.place / "session"
        other = w.authority.sign_host(
            public(session / "host"), ["bob.dev.berth", "dev.berth"], valid_seconds=60, serial=1, key_id="x"
        )
        (w.place / "other").mkdir()
        for name in ("host", "host.pub"):
            shutil.copy(session / name, w.place / "other" / name)
        (w.place / "other" / "host-cert.pub").write_text(other + "\n")
        async with openssh.sshd(w.place / "other", public(w.key)) as port:
            w.controller.sessions[me(), w.canonical] = ("127.0.0.1", port)
            done = await w.ssh("dev.berth", "true")
            assert done.code == 255
            assert "Certificate invalid: name is not a listed principal" in done.err

        w.controller.principals = ["gateway.berth"]
        async with Gateway(w.settings_with(host_key=w.place / "other gateway" / "key")) as w.gateway:
            done = await w.ssh("dev.berth", "true")
            assert done.code == 255
            assert "Certificate invalid: name is not a listed principal" in done.err

    play(place, scene)


def test_half_open_connections_are_ended(place: Path) -> None:
    async def scene(w: World) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", w.gateway.port) for _ in range(5)]
        for reader, writer in silent:
            assert (await reader.readline()).startswith(b"SSH-2.0-Berth")
            await asyncio.wait_for(reader.read(-1), DEADLINE_S)
            writer.close()

    play(place, scene, login_timeout=0.3)


def test_an_agent_full_of_keys_is_cut_off_with_the_remedy(place: Path) -> None:
    async def scene(w: World) -> None:
        keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(5)]
        with pytest.raises(asyncssh.DisconnectError, match="Too many authentication failures: 3 keys may be tried"):
            await w.client(client_keys=keys)
        assert w.gateway._throttle.waiting == 0

    play(place, scene, max_auth_tries=3)


def test_only_modern_algorithms_are_offered(place: Path) -> None:
    async def scene(w: World) -> None:
        done = await w.ssh("-v", "-o", "Compression=yes", "berth-gateway", "true")
        assert "kex: host key algorithm: ssh-ed25519-cert-v01@openssh.com" in done.err
        assert "cipher: aes128-gcm@openssh.com MAC: <implicit> compression: none" in done.err
        for option in ("KexAlgorithms=diffie-hellman-group14-sha256", "Ciphers=aes128-ctr", "Ciphers=3des-cbc"):
            assert "no matching" in (await w.ssh("-o", option, "berth-gateway", "true")).err
        scanned = await run(["ssh-keyscan", "-p", str(w.gateway.port), "127.0.0.1"])
        assert {line.split()[1] for line in scanned.out.decode().splitlines() if line[0] != "#"} == {"ssh-ed25519"}

    play(place, scene)


def test_a_login_without_proof_is_cut_off(place: Path) -> None:
    """Last-key confusion (docs/security.md): the proof was for another user than the one who would be let in."""

    class Connection:
        aborted = False

        def get_extra_info(self, name: str) -> str:
            return {"username": "bob"}[name]

        def abort(self) -> None:
            self.aborted = True

    settings = GatewaySettings(listen_host="", listen_port=0, api_socket=place, host_key=place, domain="berth")

    async def nobody(user: str) -> GatewayKeys:
        return GatewayKeys(user=user, keys=[])

    async def resolve(user: str, target: str) -> Any:  # noqa: ANN401 - never asked
        raise AssertionError(user + target)

    async def never(report: object) -> Any:  # noqa: ANN401 - never asked
        raise AssertionError(report)

    keys = CredentialsCache(nobody, ResponseCache(place / "known", GatewayKeys, stale_seconds=1), fresh_seconds=1)
    for proved in (None, ClientIdentity("alice", "SHA256:x")):
        server = GatewayConnection(
            settings,
            live=LiveConnections(),
            keys=keys,
            guards=EndpointVerifier(answer_timeout=1),
            audit=ConnectionAudit(never, "gw", Counters()),
            counts=Counters(),
            usage=Usage(),
            guests=GuestRelays(never),
            resolve=resolve,
        )
        server._conn = connection = Connection()  # type: ignore[assignment]  # all that is asked of it
        server._proved = proved
        server.auth_completed()
        assert connection.aborted
        assert server._identity is None
