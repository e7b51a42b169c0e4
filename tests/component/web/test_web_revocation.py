"""The ends of visits, delegations, certificates, tunnels and processes, while browsers have connections open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from broker.errors import RefusedError
from broker.web import grant_validity
from tests.deadlines import DEADLINE_S
from tests.fakes.haproxy_release import RELEASES
from tests.fakes.raw_http import Wire, request
from tests.fakes.web_world import DOMAIN, OWN_PAGE, Entered, WebWorld, make_certificate, play_web, web_world
from tests.processes import process_tree


async def _open(world: WebWorld, browser: Entered) -> Wire:
    """A WebSocket through which something has passed."""
    answer, wire = await world.websocket(browser)
    assert answer.status == 101
    await wire.send(b"hello")
    assert await wire.exactly(5) == b"hello"
    return wire


async def _is_open(wire: Wire) -> bool:
    await wire.send(b"still")
    return await wire.exactly(5) == b"still"


async def _answers_again(world: WebWorld, browser: Entered) -> bool:
    try:
        return (await world.get(browser)).status == 200
    except (ConnectionError, asyncio.IncompleteReadError):
        return False


async def _is_refused(world: WebWorld, browser: Entered) -> bool:
    before = len(world.echo.heads)
    status = {(await world.get(browser)).status, (await world.websocket(browser))[0].status}
    return status == {403} and len(world.echo.heads) == before


@pytest.mark.parametrize("by", ["visit", "delegation"])
@pytest.mark.parametrize("reloads", [0, 2])
@pytest.mark.parametrize("haproxy", RELEASES, indirect=True)
def test_close_is_acknowledged_when_connections_are_closed(haproxy: str, by: str, reloads: int) -> None:
    assert haproxy

    async def scene(world: WebWorld) -> None:
        ended, other = await world.entered(), await world.entered()
        sockets = [await _open(world, ended) for _ in range(3)]
        stays = await _open(world, other)
        for _ in range(reloads):
            await world.gateway.haproxy.reload()
            sockets.append(await _open(world, ended))
        name = f"{by}_ids"
        await world.close(**{name: [ended.visit.id if by == "visit" else ended.visit.delegation_id]})
        activity = await world.gateway.haproxy.activity()
        assert sum(each.current for each in activity.values()) == 1, "all but the other browser's"
        for wire in sockets:
            assert await wire.rest() == b""
        assert await _is_refused(world, ended)
        assert await _is_open(stays)
        assert (await world.get(other)).status == 200

    play_web(scene)


def test_visit_that_has_just_ended_does_not_begin() -> None:
    async def scene(world: WebWorld) -> None:
        visit = world.visit()
        await world.close(delegation_ids=[visit.delegation_id])
        with pytest.raises(RefusedError, match="logged out"):
            world.gateway.entrances.admit(visit, "0" * 64)
        with pytest.raises(RefusedError, match="logged out"):
            await world.gateway.access.create_grant(visit)

    play_web(scene)


def test_second_visit_of_a_browser_replaces_the_first() -> None:
    async def scene(world: WebWorld) -> None:
        first, other = await world.entered(), await world.entered()
        wire, stays = await _open(world, first), await _open(world, other)
        again = world.visit().model_copy(update={"delegation_id": first.visit.delegation_id})
        second = await world.enter(again)
        assert await wire.rest() == b""
        assert await _is_refused(world, first)
        assert (await world.navigate(second.host, **world.cookie(second))).status == 200
        assert await _is_open(stays)

    play_web(scene)


def test_streams_and_uploads_are_closed_too() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        stream, upload = await world.wire(), await world.wire()
        headers = OWN_PAGE | world.cookie(browser) | {"Origin": world.origin(browser.host)}
        await stream.send(request("GET", "/events", world.authority(browser.host), headers))
        await stream.head()
        body = {"Content-Length": "1000"}
        await upload.send(request("POST", "/u", world.authority(browser.host), headers | body) + b"begins here")
        async with asyncio.timeout(DEADLINE_S):
            await world.echo.body_begun.wait()
        await world.close(visit_ids=[browser.visit.id])
        assert await stream.rest() == b""
        assert b" 200 " not in await upload.rest()
        assert world.echo.bodies == []

    play_web(scene)


def test_connection_that_is_kept_gets_nothing_more() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wire = await world.wire()
        again = request("GET", "/x", world.authority(browser.host), OWN_PAGE | world.cookie(browser))
        await wire.send(again)
        assert (await wire.answer()).status == 200
        await world.close(visit_ids=[browser.visit.id])
        await wire.send(again)
        assert (await wire.answer()).status == 403

    play_web(scene)


def test_visit_ends_in_time_while_the_controller_is_away() -> None:
    async def scene(world: WebWorld) -> None:
        long = await world.entered()
        short = await world.entered(seconds=4)
        ends, stays = await _open(world, short), await _open(world, long)
        await world.controller.vanish()
        assert await ends.rest() == b""
        assert await _is_refused(world, short)
        assert await _is_open(stays)

    play_web(scene)


def test_visit_ends_in_time_while_the_controller_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket accepts requests and answers none: the check of visits hangs, and expiry does not wait for it."""

    async def scene(world: WebWorld) -> None:
        long = await world.entered()
        short = await world.entered(seconds=4)
        ends, stays = await _open(world, short), await _open(world, long)
        world.controller.runs.clear()
        async with asyncio.timeout(DEADLINE_S):
            await world.controller.waiting.wait()
        assert await ends.rest() == b""
        assert await _is_refused(world, short)
        assert await _is_open(stays)
        assert (await world.get(long)).status == 200
        await world.close(visit_ids=[long.visit.id])
        assert await stays.rest() == b""
        assert await _is_refused(world, long)
        world.controller.runs.set()

    monkeypatch.setattr(grant_validity, "CHECK_S", 0.1)
    play_web(scene)


def test_close_needs_no_controller() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wire = await _open(world, browser)
        await world.controller.vanish()
        await world.close(visit_ids=[browser.visit.id])
        assert await wire.rest() == b""
        assert await _is_refused(world, browser)

    play_web(scene)


def test_new_certificate_is_served_and_nothing_is_dropped() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wire = await _open(world, browser)
        certificate = world.settings.certificate
        assert certificate is not None
        make_certificate(certificate, DOMAIN)
        assert world.tls is not None
        world.tls.load_verify_locations(str(certificate))
        before = wire.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        await world.gateway.haproxy.reload()
        assert await _is_open(wire)
        fresh = await _open(world, browser)
        assert fresh.writer.get_extra_info("ssl_object").getpeercert(binary_form=True) != before

    play_web(scene, tls=True)


def test_wrong_certificate_leaves_what_runs() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wire = await _open(world, browser)
        assert world.settings.certificate is not None
        good = world.settings.certificate.read_bytes()
        world.settings.certificate.write_text("no certificate")
        with pytest.raises(Exception, match="HAProxy refuses its configuration"):
            await world.gateway.haproxy.reload()
        assert await _is_open(wire)
        assert (await world.get(browser)).status == 200
        world.settings.certificate.write_bytes(good)

    play_web(scene, tls=True)


def test_restart_keeps_grants_that_are_still_valid() -> None:
    async def whole() -> None:
        async with web_world() as world:
            async with world.serving():
                kept, ended = await world.entered(), await world.entered()
                wire = await _open(world, kept)
            assert await wire.rest() == b""
            del world.controller.visits[ended.visit.secret]
            async with world.serving():
                answer = await world.navigate(kept.host, "/a?b", **world.cookie(kept))
                assert (answer.status, answer.header("location")) == (303, "/a?b")
                assert await _is_open(await _open(world, kept))
                assert await _is_refused(world, ended)

    asyncio.run(whole())


def test_nobody_enters_after_a_restart_until_the_controller_has_answered() -> None:
    async def whole() -> None:
        async with web_world() as world:
            async with world.serving():
                browser = await world.entered()
            world.echo.heads.clear()
            await world.controller.vanish()
            async with world.serving():
                assert (await world.get(browser)).status == 503
                assert not world.echo.heads
                await world.controller.__aenter__()
                await _opens_again(world, browser)
                assert (await world.get(browser)).status == 200

    asyncio.run(whole())


def _processes(world: WebWorld, program: str) -> list[int]:
    """This test's processes of a program, the oldest first."""
    found = []
    for pid in process_tree(os.getpid())[1:]:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if Path(words[0].decode()).name == program and any(str(world.place).encode() in word for word in words):
            found.append(pid)
    return found


async def _opens_again(world: WebWorld, browser: Entered) -> None:
    """Return when a page that reloads itself has opened the service."""
    await _answers(world, browser, 303)


async def _answers(world: WebWorld, browser: Entered, status: int) -> None:
    """Return when a navigation has this answer. HAProxy may close a connection, so that the browser tries again."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(asyncio.IncompleteReadError):
                if (await world.navigate(browser.host, **world.cookie(browser))).status == status:
                    return


def test_end_of_the_tunnel_ends_its_routes_and_the_next_page_opens_another() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wire = await _open(world, browser)
        master, *_ = _processes(world, "ssh")
        os.kill(master, signal.SIGKILL)
        assert await wire.rest() == b""
        await _opens_again(world, browser)
        assert await _is_open(await _open(world, browser))
        assert world.controller.doors == 2

    play_web(scene)


def test_service_that_ends_is_started_by_the_next_page() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        (world.place / "echo.stopped").touch()
        (world.place / "echo.slow").touch()
        await _answers(world, browser, 202)
        for fault in ("stopped", "slow"):
            (world.place / f"echo.{fault}").unlink()
        await _opens_again(world, browser)
        assert (await world.get(browser)).status == 200

    play_web(scene)


@pytest.mark.parametrize("process", ["master", "worker"])
@pytest.mark.parametrize("haproxy", RELEASES, indirect=True)
def test_haproxy_that_is_killed_is_started_with_its_grants(haproxy: str, process: str) -> None:
    assert haproxy

    async def scene(world: WebWorld) -> None:
        browser, ended = await world.entered(), await world.entered()
        wire = await _open(world, browser)
        await world.close(visit_ids=[ended.visit.id])
        master, worker, *_ = _processes(world, "haproxy")
        os.kill(master if process == "master" else worker, signal.SIGKILL)
        assert await wire.rest() == b""
        async with asyncio.timeout(DEADLINE_S):
            while not await _answers_again(world, browser):  # noqa: ASYNC110 - HAProxy sets no Event
                await asyncio.sleep(0.02)
        assert await _is_refused(world, ended)

    play_web(scene)


def test_haproxy_that_does_not_answer_is_replaced_to_revoke() -> None:
    async def scene(world: WebWorld) -> None:
        browser, other = await world.entered(), await world.entered()
        wire = await _open(world, browser)
        _, worker, *_ = _processes(world, "haproxy")
        os.kill(worker, signal.SIGSTOP)
        await world.close(visit_ids=[browser.visit.id])
        assert await wire.rest() == b""
        assert await _is_refused(world, browser)
        assert (await world.get(other)).status == 200

    play_web(scene)


@pytest.mark.parametrize("status", [429, 500])
def test_visits_are_checked_again_after_an_error(status: int) -> None:
    async def whole() -> None:
        async with web_world() as world:
            async with world.serving():
                browser = await world.entered()
            world.controller.check_status = status
            async with world.serving():
                assert (await world.get(browser)).status == 503
                world.controller.check_status = 200
                await _opens_again(world, browser)
                assert (await world.get(browser)).status == 200

    asyncio.run(whole())


def test_haproxy_is_started_as_soon_as_processes_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        can_fork, tries = asyncio.create_subprocess_exec, 0

        async def cannot_start(*argv: Any, **options: Any) -> Any:  # noqa: ANN401 - as asyncio has it
            nonlocal tries
            if argv[0] != "setpriv":  # HAProxy checks its configuration, but does not start
                return await can_fork(*argv, **options)
            tries += 1
            raise BlockingIOError

        monkeypatch.setattr(asyncio, "create_subprocess_exec", cannot_start)
        os.kill(_processes(world, "haproxy")[0], signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            while tries < 3:  # noqa: ASYNC110 - the supervisor sets no Event
                await asyncio.sleep(0.02)
        await world.close(visit_ids=[world.visit().id])
        monkeypatch.setattr(asyncio, "create_subprocess_exec", can_fork)
        async with asyncio.timeout(DEADLINE_S):
            while not await _answers_again(world, browser):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
        assert not world.gateway.access.failed.is_set()

    play_web(scene)


def test_failure_to_end_visits_ends_the_process() -> None:
    async def scene(world: WebWorld) -> None:
        def fail(_: float) -> None:
            raise MemoryError

        vars(world.gateway.access._grants).update(find_expired=fail)
        async with asyncio.timeout(DEADLINE_S):
            await world.gateway.access.failed.wait()

    play_web(scene)
