"""The gateway without its controller, and its own start and stop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from broker.gateway import controller_client
from broker.gateway.server import Gateway
from broker.gateway.settings import GatewaySettings
from tests.deadlines import DEADLINE_S
from tests.fakes.gateway_world import World, play, until

if TYPE_CHECKING:
    from pathlib import Path


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


def test_the_port_is_known_only_while_it_listens(place: Path) -> None:
    settings = GatewaySettings(listen_host="", listen_port=0, api_socket=place, host_key=place, domain="berth")
    with pytest.raises(RuntimeError, match="does not listen"):
        _ = Gateway(settings).port
