"""Services of sessions as berth-web opens them: those that are defined late, that flood it, and that are too many."""

from __future__ import annotations

import asyncio

import pytest

from broker.web import service_connections
from tests.deadlines import DEADLINE_S
from tests.fakes.raw_http import request
from tests.fakes.recording_service import RecordingService
from tests.fakes.web_world import OWN_PAGE, WebWorld, play_web


def _tunnels(world: WebWorld) -> int:
    (session,) = world.settings.tunnels.iterdir()
    return len(list(session.iterdir()))


def test_service_that_is_defined_later_gets_a_new_tunnel() -> None:
    async def scene(world: WebWorld) -> None:
        _, wire = await world.websocket(await world.entered("echo"))
        async with RecordingService(world.place / "s" / "late.sock") as late:
            world.define("late")
            world.services["late"] = late
            assert (await world.get(await world.entered("late"))).status == 200
            assert (await world.get(await world.entered("other"))).status == 200
            await wire.send(b"still")
            assert await wire.exactly(5) == b"still"
            assert (world.controller.doors, _tunnels(world)) == (2, 2)
            (world.place / "echo.stopped").touch()
            async with asyncio.timeout(DEADLINE_S):
                while _tunnels(world) > 1:  # noqa: ASYNC110 - ssh sets no Event
                    await asyncio.sleep(0.02)
            assert (await world.get(await world.entered("late"))).status == 200
            assert world.controller.doors == 2

    play_web(scene)


def test_requests_of_a_page_share_a_connection_to_the_service() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        for is_reloaded in (False, True):
            before = world.echo.connections
            wire = await world.wire(browser.host)
            for _ in range(20):
                await wire.send(request("GET", "/", world.authority(browser.host), OWN_PAGE | world.cookie(browser)))
                assert (await wire.answer()).status == 200
            assert world.echo.connections <= before + 1, is_reloaded
            await world.gateway.haproxy.reload()
        await world.close(visit_ids=[browser.visit.id])
        async with asyncio.timeout(DEADLINE_S):
            while world.echo.open:  # noqa: ASYNC110 - the service sets no Event
                await asyncio.sleep(0.02)

    play_web(scene)


def test_socket_that_no_login_may_open_is_an_error() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.enter(world.visit("late"))
        answer = await world.navigate(browser.host, **world.cookie(browser))
        assert answer.status == 500
        assert b"does not let browsers reach late" in answer.body
        assert world.controller.doors == 2

    play_web(scene)


def test_session_that_floods_its_channel_loses_it() -> None:
    async def scene(world: WebWorld) -> None:
        (world.place / "echo.flood").touch()
        browser = await world.enter(world.visit())
        answer = await world.navigate(browser.host, **world.cookie(browser))
        assert answer.status == 500
        assert b"reports too much on echo" in answer.body
        assert (await world.get(await world.entered("other"))).status == 200

    play_web(scene)


def test_service_that_flaps_waits_after_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: WebWorld) -> None:
        monkeypatch.setattr(service_connections, "UNREADY_PAUSE_S", 3600)
        (world.place / "echo.flaps").touch()
        browser = await world.enter(world.visit())
        grant = next(iter(world.gateway.access._grants))
        connection = await world.gateway.access.open(grant, 0)
        async with asyncio.timeout(DEADLINE_S):
            while not (world.place / "echo.flapped").exists() or not connection.was_ready or connection.ready.is_set():  # noqa: ASYNC110 - the session sets no Event
                await asyncio.sleep(0.02)
        waiting = await world.get(browser)
        assert (waiting.status, waiting.header("retry-after")) == (503, "2")
        assert connection.retry_at is None

    play_web(scene)


@pytest.mark.parametrize("limit", ["MAX_PER_SESSION", "MAX_PER_USER"])
def test_number_of_open_services_is_limited(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: WebWorld) -> None:
        monkeypatch.setattr(service_connections, limit, 1)
        first = await world.entered("echo")
        second = await world.enter(world.visit("other"))
        answer = await world.navigate(second.host, **world.cookie(second))
        assert answer.status == 429
        assert b"as many as are allowed" in answer.body
        assert (await world.get(first)).status == 200

    play_web(scene)


def test_runtime_directory_without_room_is_an_error_that_ends() -> None:
    async def scene(world: WebWorld) -> None:
        world.settings.tunnels.touch()
        browser = await world.enter(world.visit())
        answer = await world.navigate(browser.host, **world.cookie(browser))
        assert answer.status == 500
        assert b"cannot connect to the session" in answer.body
        world.settings.tunnels.unlink()
        await world.entered("echo")
        assert not world.gateway.access.failed.is_set()

    play_web(scene)


def test_process_that_cannot_be_made_is_an_error_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: WebWorld) -> None:
        async def cannot_fork(*_: object, **__: object) -> None:
            raise BlockingIOError

        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "create_subprocess_exec", cannot_fork)
            browser = await world.enter(world.visit())
            answer = await world.navigate(browser.host, **world.cookie(browser))
            assert answer.status == 500
        await world.close(visit_ids=[browser.visit.id])
        assert (await world.get(await world.entered("echo"))).status == 200

    play_web(scene)
