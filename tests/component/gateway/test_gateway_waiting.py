"""Sessions that are on their way, and a controller that is away: what the gateway does, with real OpenSSH."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.errors import BerthError, ConflictError, ControllerUnavailableError, NotFoundError
from broker.gateway.endpoints import EndpointResolver
from broker.gateway.response_cache import ResponseCache
from broker.schema.connections import ResolveAnswer
from tests.fakes import openssh
from tests.fakes.gateway_world import play, until
from tests.fakes.openssh import me

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.gateway_world import World


def test_what_is_on_its_way_is_told_after_the_signature_and_before_the_login(place: Path) -> None:
    """Of the session to which the connection goes, and of no other."""

    async def scene(w: World) -> None:
        w.controller.notices[me()] = {"dev": "dev is \x1b[2Jqueued: Priority", "ci": "ci is starting"}
        done = await w.ssh("dev.berth", "echo in")
        assert (done.code, done.out) == (0, b"in\n")
        assert done.err.replace("\r", "") == "berth: dev is ?[2Jqueued: Priority\n"

    play(place, scene)


def test_connection_to_a_ready_session_shows_nothing_of_queued_ones(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.notices[me()] = {"ci": "ci is queued: Priority"}
        done = await w.ssh("dev.berth", "echo in")
        assert (done.code, done.out, done.err) == (0, b"in\n", "")
        # Without the session in the login name, as `ssh -J gateway dev.berth` has it.
        plain = ["-o", f"ProxyJump={me()}@berth-gateway"]
        assert (await w.ssh(*plain, "dev.berth", "true")).err == ""
        w.controller.notices[me()] = {"dev": "dev is queued", "": "dev is queued"}
        assert "berth: dev is queued" in (await w.ssh(*plain, "dev.berth", "true")).err

    play(place, scene)


@pytest.mark.parametrize("target", ["", "%h", "dev", "bob.dev.berth", "x" * 900, "a b+c", "../..", "é"])
def test_any_target_in_a_login_name_logs_the_user_in(place: Path, target: str) -> None:
    """Some clients do not replace %h, as they read ssh_config themselves."""

    async def scene(w: World) -> None:
        async with await w.client(username=f"{me()}+{target}") as client:
            reader, _ = await client.open_connection(w.canonical, 22)
            assert (await reader.read(8)).startswith(b"SSH-2.0-")

    play(place, scene)


def test_a_stranger_who_knows_a_public_key_is_told_nothing(place: Path) -> None:
    """They offer the key, and sign with another."""
    told: list[str] = []

    class Client(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:  # noqa: ARG002 - asyncssh's signature
            told.append(msg)

    async def scene(w: World) -> None:
        w.controller.notices[me()] = {"dev": "dev is queued", "": "dev is queued"}
        [forged] = asyncssh.load_keypairs(str(openssh.make_key(w.place / "stranger")))
        forged.public_data = asyncssh.read_public_key(str(w.key) + ".pub").public_data
        with pytest.raises(asyncssh.PermissionDenied):
            await w.client(client_keys=[forged], client_factory=Client)
        assert told == []
        async with await w.client(client_factory=Client):
            assert told == ["berth: dev is queued\n"]

    play(place, scene)


def test_a_session_on_its_way_is_asked_for_until_it_is_there(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.waits = 3
        assert (await w.ssh("dev.berth", "echo in")).out == b"in\n"
        assert w.controller.waited[0] == 0
        assert 0 < w.controller.waited[1] < w.controller.waited[2]

    play(place, scene)


def test_a_client_that_gives_up_is_asked_for_no_more(place: Path) -> None:
    async def scene(w: World) -> None:
        before = len(w.controller.asked)
        assert (await w.ssh("dev.berth", "true")).code == 0
        questions = len(w.controller.asked) - before
        w.controller.waits = 10**6
        done = await w.ssh("-o", "ConnectTimeout=1", "dev.berth", "true")
        assert done.code == 255
        await until(lambda: not len(w.gateway._live))
        asked = len(w.controller.asked)
        w.controller.waits = 0
        assert (await w.ssh("dev.berth", "echo in")).out == b"in\n"
        assert len(w.controller.asked) <= asked + questions + 1, "one may have been on its way"

    play(place, scene)


def test_client_waits_on_while_the_controller_is_restarted(place: Path) -> None:
    async def scene(w: World) -> None:
        w.controller.waits = 10**6
        async with await w.client() as client:
            opening = asyncio.create_task(client.open_connection(w.canonical, 22))
            await until(lambda: w.controller.waited)
            await w.controller.stop()
            await until(lambda: w.gateway.counts.snapshot()["totals"].get("controller_errors "))
            w.controller.path.unlink()
            w.controller.waits = 0
            await w.controller.start()
            reader, _ = await opening
            assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH")

    play(place, scene)


def test_without_the_controller_what_stands_stands_and_what_runs_is_reached(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            reader, writer = await client.open_connection(w.canonical, 22)
            assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH")
            assert (await w.ssh("dev.berth", "echo in")).out == b"in\n"
            await w.controller.stop()
            done = await w.ssh("dev.berth", "echo in")
            assert done.out == b"in\n"
            assert "the controller does not answer" in done.err
            w.controller.path.unlink()
            assert (await w.ssh("dev.berth", "echo in")).out == b"in\n"
            assert (await w.ssh("other.berth", "echo in")).code == 255
            writer.write(b"SSH-2.0-still-here\r\n")
            assert (await reader.read(1)) != b""

    play(place, scene, keys_fresh_seconds=0.0)


def answer(host: str) -> ResolveAnswer:
    return ResolveAnswer(
        session_id="01", owner="alice", name="dev", generation="1.0", host=host, port=1, fingerprint="x"
    )


def test_only_a_controller_that_is_away_is_bridged(tmp_path: Path) -> None:
    says: ResolveAnswer | BerthError = answer("c1")
    now = 0.0

    async def ask(_: str, __: str) -> ResolveAnswer:
        if isinstance(says, BerthError):
            raise says
        return says

    async def scene() -> None:
        nonlocal says, now
        memory = ResponseCache(tmp_path / "known", ResolveAnswer, stale_seconds=60, clock=lambda: now)
        known = EndpointResolver(ask, memory, "berth")
        assert (await known.resolve("alice", "dev")).host == "c1"
        says = ControllerUnavailableError("away")
        now = 60
        assert (await known.resolve("alice", "dev")).host == "c1"
        for user, target in (("bob", "dev"), ("alice", "ci")):
            with pytest.raises(ControllerUnavailableError):
                await known.resolve(user, target)
        now = 61
        with pytest.raises(ControllerUnavailableError):
            await known.resolve("alice", "dev")
        now = 0
        for refusal in (ConflictError("dev is stopped"), NotFoundError("dev is not yours any more")):
            says = answer("c1")
            await known.resolve("alice", "dev")
            says = refusal
            with pytest.raises(type(refusal)):
                await known.resolve("alice", "dev")
            says = ControllerUnavailableError("away")
            with pytest.raises(ControllerUnavailableError):
                await known.resolve("alice", "dev")

    asyncio.run(scene())


def age(w: World, seconds: float) -> None:
    """Have that much time pass for what the gateway remembers, which is as old as its files are."""
    for path in (w.settings.host_key.parent / "known").rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_an_hour_without_the_controller_goes_unnoticed_and_no_longer(place: Path) -> None:
    async def scene(w: World) -> None:
        async with await w.client() as client:
            reader, _ = await client.open_connection(w.canonical, 22)
            assert (await w.ssh("dev.berth", "echo in")).out == b"in\n"
            await w.controller.stop()
            age(w, 3590)
            assert (await w.ssh("dev.berth", "echo in")).out == b"in\n"
            assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH"), "what stands stands"
            age(w, 3610)
            assert (await w.ssh("dev.berth", "echo in")).code == 255
            await w.controller.start()
            assert (await w.ssh("dev.berth", "echo in")).out == b"in\n"

    play(place, scene)
