"""The gateway with real OpenSSH on both sides; only the controller is a fake."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from typing import TYPE_CHECKING, Any

import asyncssh
import pytest

from broker.errors import ConflictError, RefusedError
from broker.gateway import controller_client
from broker.gateway.audit import ClientIdentity, ConnectionAudit, log_line
from broker.gateway.connection import GatewayConnection, terminal_text
from broker.gateway.counters import Counters
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
from tests.fakes.gateway_world import World, play, until
from tests.fakes.openssh import me, public, run

if TYPE_CHECKING:
    from pathlib import Path

BULK = 16 * 2**20


def test_a_session_is_reached_without_a_prompt_or_a_word(place: Path) -> None:
    async def scene(w: World) -> None:
        done = await w.ssh("dev.berth", "echo here; exit 7")
        assert (done.code, done.out, done.err) == (7, b"here\n", "")

    play(place, scene)


def test_megabytes_arrive_bit_exact_in_both_directions(place: Path) -> None:
    async def scene(w: World) -> None:
        data = os.urandom(BULK)
        done = await w.ssh("dev.berth", "cat", stdin=data)
        assert done.out == data

    play(place, scene)


@pytest.mark.parametrize("first", ["client", "session"])
def test_either_side_may_end_first_and_still_be_heard(place: Path, first: str) -> None:
    """Half-close: what comes after the other side's end of file is not lost."""
    up, down = os.urandom(BULK), os.urandom(BULK)
    received: asyncio.Future[bytes]

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.read(-1) if first == "client" else b""
        writer.write(down)
        await writer.drain()
        writer.write_eof()
        got += await reader.read(-1)
        received.set_result(got)
        writer.close()

    async def scene(w: World) -> None:
        nonlocal received
        received = asyncio.get_running_loop().create_future()
        w.trust_everybody()
        async with await asyncio.start_server(session, "127.0.0.1", 0) as server:
            w.controller.sessions[me(), "raw"] = ("127.0.0.1", server.sockets[0].getsockname()[1])
            async with await w.client() as client:
                reader, writer = await client.open_connection("raw", 22)
                if first == "session":
                    assert await reader.read(-1) == down
                writer.write(up)
                writer.write_eof()
                if first == "client":
                    assert await reader.read(-1) == down
                assert await received == up
                await writer.wait_closed()

    play(place, scene)


def test_whoever_comes_without_a_session_is_told_how(place: Path) -> None:
    async def scene(w: World) -> None:
        done = await w.ssh("berth-gateway", "true")
        assert done.code == 255
        assert "nothing runs on Berth's gateway itself" in done.err
        assert "ssh -J GATEWAY NAME.berth" in done.err

    play(place, scene)


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


def test_a_refusal_reaches_the_terminal_whole_and_harmless(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.sessions[me(), w.canonical] = ConflictError(
            "dev is queued:\nPriority \x1b[31m\x07\u202e", hint="`berth show dev` tells when it is expected to start"
        )
        done = await w.ssh("dev.berth", "true")
        assert done.code == 255
        assert "dev is queued: Priority ?[31m?? (`berth show dev` tells when it is expected to start)" in done.err
        assert "\x1b" not in done.err

        w.controller.sessions[me(), w.canonical] = RefusedError("dev is not yours")
        assert "administratively prohibited: dev is not yours" in (await w.ssh("dev.berth", "true")).err

    play(place, scene)


def test_a_session_that_does_not_listen_is_named(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.sessions[me(), w.canonical] = ("127.0.0.1", openssh.free_port())
        assert f"{me()}.dev does not answer on 127.0.0.1" in (await w.ssh("dev.berth", "true")).err

    play(place, scene)


def test_a_session_has_port_22_only(place: Path) -> None:
    async def scene(w: World) -> None:
        assert "port 22 only, not 23 (leave the port out)" in (await w.ssh("-p", "23", "dev.berth", "true")).err

    play(place, scene)


def test_a_controller_that_restarts_disturbs_nobody(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as standing:
            reader, writer = await standing.open_connection(w.canonical, 22)
            assert (await reader.readline()).startswith(b"SSH-2.0-")
            await w.controller.stop()

            done = await w.ssh("other.berth", "true")
            assert done.code == 255
            assert "berth: the controller does not answer; what is known from before still works" in done.err
            assert "connect failed: Berth's controller does not answer" in done.err

            await w.controller.start()
            assert (await w.ssh("dev.berth", "true")).code == 0
            writer.write(b"SSH-2.0-still-here\r\n")
            assert await reader.readexactly(1)  # sshd's key exchange: the connection of before goes on
            writer.close()

    play(place, scene)


def test_a_controller_that_hangs_is_a_controller_that_is_down(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_client, "KEYS_TIMEOUT_S", 0.2)
    monkeypatch.setattr(controller_client, "RESPONSE_TIMEOUT_S", 0.5)

    async def scene(w: World) -> None:
        assert (await w.ssh("dev.berth", "true")).code == 0
        w.controller.hung = True
        assert (await w.ssh("dev.berth", "true")).code == 0, "it is known from before"
        done = await w.ssh("other.berth", "true")
        assert done.code == 255
        assert "berth: the controller does not answer; what is known from before still works" in done.err
        assert "connect failed: Berth's controller does not answer" in done.err
        w.controller.hung = False
        assert (await w.ssh("dev.berth", "true")).code == 0

    play(place, scene)


def test_without_the_controller_strangers_stay_strangers(place: Path) -> None:
    async def scene(w: World) -> None:
        await w.controller.stop()
        done = await w.ssh("dev.berth", "true")
        assert "berth: the controller does not answer" in done.err
        assert "Permission denied (publickey)" in done.err

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


def test_the_gateway_starts_without_the_controller_if_it_ever_had_one(place: Path) -> None:
    async def scene(w: World) -> None:
        await w.controller.stop()
        async with Gateway(w.settings) as again:
            w.gateway = again
            done = await w.ssh("dev.berth", "true")
            assert "Permission denied" in done.err  # its host key was believed

    play(place, scene)


def test_a_first_start_waits_for_the_controller(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(w: World) -> None:
        await w.controller.stop()
        starting = asyncio.create_task(Gateway(w.settings_with(host_key=w.place / "new" / "key")).__aenter__())
        await until(lambda: "no host certificate yet" in caplog.text)
        assert not starting.done()
        await w.controller.start()
        gateway = await starting
        assert gateway.port
        await gateway.__aexit__(None, None, None)

    play(place, scene)


def test_half_open_connections_are_ended(place: Path) -> None:
    async def scene(w: World) -> None:
        silent = [await asyncio.open_connection("127.0.0.1", w.gateway.port) for _ in range(5)]
        for reader, writer in silent:
            assert (await reader.readline()).startswith(b"SSH-2.0-Berth")
            await asyncio.wait_for(reader.read(-1), DEADLINE_S)
            writer.close()

    play(place, scene, login_timeout=0.3)


def test_a_client_that_vanished_is_noticed(place: Path) -> None:
    async def scene(w: World) -> None:
        client = await w.client()
        reader, _ = await client.open_connection(w.canonical, 22)
        assert await reader.readline()
        client._transport.pause_reading()  # type: ignore[union-attr]  # it hears nothing more, so it answers nothing
        await until(lambda: not len(w.gateway._live))
        client.abort()

    play(place, scene, keepalive_interval=0.2, keepalive_count=2)


def test_an_agent_full_of_keys_is_cut_off_with_the_remedy(place: Path) -> None:
    async def scene(w: World) -> None:
        keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(5)]
        with pytest.raises(asyncssh.DisconnectError, match="Too many authentication failures: 3 keys may be tried"):
            await w.client(client_keys=keys)
        assert w.gateway._throttle.waiting == 0

    play(place, scene, max_auth_tries=3)


def test_one_connection_has_so_many_forwards_and_no_more(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            _, first = await client.open_connection(w.canonical, 22)
            await client.open_connection(w.canonical, 22)
            with pytest.raises(asyncssh.ChannelOpenError, match="2 connections are open already"):
                await client.open_connection(w.canonical, 22)
            first.close()
            await first.wait_closed()
            await client.open_connection(w.canonical, 22)

    play(place, scene, max_forwards=2)


def test_a_client_that_stops_reading_does_not_fill_the_memory(place: Path) -> None:
    """Its channel window is a gigabyte, so only the TCP connection's back pressure can hold the session up."""
    produced = 0

    async def session(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal produced
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(bytes(2**20))
                await writer.drain()
                produced += 2**20

    async def scene(w: World) -> None:
        w.trust_everybody()
        async with await asyncio.start_server(session, "127.0.0.1", 0) as server:
            w.controller.sessions[me(), "raw"] = ("127.0.0.1", server.sockets[0].getsockname()[1])
            client = await w.client()
            await client.open_connection("raw", 22, window=2**30)
            await client.open_connection("raw", 22, window=2**30)
            client._transport.pause_reading()  # type: ignore[union-attr]  # the client is stuck
            before = -1
            async with asyncio.timeout(DEADLINE_S):
                while before != produced or not produced:
                    before = produced
                    await asyncio.sleep(0.5)  # long enough that a gateway without back pressure would take more
            assert produced < 64 * 2**20
            client.abort()

    play(place, scene)


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


def test_each_forward_leaves_one_line_in_the_log(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broker")

    async def scene(w: World) -> None:
        await w.ssh("dev.berth", "true")
        await until(lambda: "event=forward" in caplog.text)
        line = next(m for m in caplog.messages if m.startswith("event=forward"))
        fields = dict(field.split("=", 1) for field in line.split())
        fingerprint = (await run(["ssh-keygen", "-l", "-f", w.key])).out.decode().split()[1]
        assert fields["user"] == me()
        assert fields["key"] == fingerprint
        assert fields["session"] == "01session"
        assert fields["generation"] == "1.0"
        assert fields["peer"].startswith("127.0.0.1:")
        assert int(fields["sent"]) > 500
        assert int(fields["received"]) > 500
        assert fields["end"] == "closed"

    play(place, scene)


def test_stopping_lets_connections_finish_within_the_grace(place: Path) -> None:
    async def scene(w: World) -> None:
        gateway = Gateway(w.settings_with(drain_seconds=3600))
        await gateway.__aenter__()
        port = gateway.port
        w.gateway = gateway
        held = asyncio.create_task(
            w.ssh("dev.berth", f"echo > {w.place}/there; while [ ! -e {w.place}/go ]; do sleep 0.05; done; echo ok")
        )
        await until((w.place / "there").exists)
        stopping = asyncio.create_task(gateway.__aexit__(None, None, None))
        await until(lambda: gateway._listener is None)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not stopping.done()
        (w.place / "go").touch()
        assert (await held).out == b"ok\n"
        await asyncio.wait_for(stopping, DEADLINE_S)

    play(place, scene)


def test_stopping_ends_what_does_not_finish(place: Path) -> None:
    async def scene(w: World) -> None:
        gateway = Gateway(w.settings_with(drain_seconds=0.3))
        await gateway.__aenter__()
        w.gateway = gateway
        held = asyncio.create_task(w.ssh("dev.berth", f"echo > {w.place}/there; sleep 60"))
        await until((w.place / "there").exists)
        await asyncio.wait_for(gateway.__aexit__(None, None, None), DEADLINE_S)
        assert (await held).code == 255

    play(place, scene)


def test_a_login_without_proof_is_cut_off(place: Path) -> None:
    """What docs/security.md calls last-key confusion: the proof was for another user than the one who is let in."""

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

    async def never(report: object) -> None:
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
            resolve=resolve,
        )
        server._conn = connection = Connection()  # type: ignore[assignment]  # all that is asked of it
        server._proved = proved
        server.auth_completed()
        assert connection.aborted
        assert server._identity is None


def test_nobody_can_forge_a_field_of_the_log() -> None:
    assert log_line("refused", target='x" user=root\n', n=3) == r'event=refused target="x\" user=root\n" n=3'


def test_terminal_text_is_one_short_printable_line() -> None:
    assert terminal_text("a\x1b[2J\r\nb\tc\u2028d é") == "a?[2J b c d ?"
    assert len(terminal_text("x" * 10_000)) == 400


def test_the_port_is_known_only_while_it_listens(place: Path) -> None:
    settings = GatewaySettings(listen_host="", listen_port=0, api_socket=place, host_key=place, domain="berth")
    with pytest.raises(RuntimeError, match="does not listen"):
        _ = Gateway(settings).port
