"""The master and its workers as they are in real life: `berth gateway` as a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.gateway.master import Worker
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.gateway_process import GatewayProcess, gateway_process
from tests.fakes.gateway_world import World, until, world
from tests.fakes.openssh import me

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncssh


def play(
    place: Path, scene: Callable[[World, GatewayProcess], Awaitable[None]], workers: int = 1, **gateway: object
) -> None:
    async def whole() -> None:
        async with (
            asyncio.timeout(4 * TEST_DEADLINE_S),
            world(place) as made,
            gateway_process(made, workers=workers, **gateway) as process,
        ):
            await scene(made, process)

    asyncio.run(whole())


class Standing:
    """A login in the session, by way of the gateway, that stands while the test does something to the gateway."""

    def __init__(self, jump: asyncssh.SSHClientConnection, cat: asyncssh.SSHClientProcess[str]) -> None:
        self._jump = jump
        self._cat = cat

    @classmethod
    async def open(cls, w: World, process: GatewayProcess) -> Standing:
        jump = await process.client()
        session = await jump.connect_ssh(
            w.canonical, username=me(), client_keys=[str(w.key)], known_hosts=None, agent_path=None
        )
        return cls(jump, await session.create_process("cat"))

    async def works(self) -> bool:
        self._cat.stdin.write("still there?\n")
        async with asyncio.timeout(DEADLINE_S):
            return await self._cat.stdout.readline() == "still there?\n"

    async def close(self) -> None:
        self._jump.close()
        await self._jump.wait_closed()


async def reach(w: World, process: GatewayProcess) -> None:
    """Log in, and hear the session's sshd."""
    async with await process.client() as client:
        reader, _ = await client.open_connection(w.canonical, 22)
        assert (await reader.readline()).startswith(b"SSH-2.0-OpenSSH")


def test_several_workers_share_the_port(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        serving = process.workers()
        assert len(serving) == 3
        await asyncio.gather(*(reach(w, process) for _ in range(30)))
        assert process.workers() == serving
        await until(lambda: process.said.count("event=forward") == 30)

    play(place, scene, workers=3)


def test_what_one_worker_was_told_all_know_and_those_after_a_reload(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        await reach(w, process)
        await w.controller.stop()
        for _ in range(20):
            await reach(w, process)
        await process.reload()
        for _ in range(20):
            await reach(w, process)

    play(place, scene, workers=3)


@pytest.mark.parametrize("reloads", [4, pytest.param(100, marks=pytest.mark.soak)])
def test_reloads_under_load_drop_nobody(place: Path, reloads: int) -> None:
    """Two logins after the other all the time, two that stand, and a new one before each reload that stands over it."""

    async def scene(w: World, process: GatewayProcess) -> None:
        standing = [await Standing.open(w, process) for _ in range(2)]
        reached, done = 0, False

        async def come_and_go() -> None:
            nonlocal reached
            while not done:
                await reach(w, process)
                reached += 1

        load = [asyncio.create_task(come_and_go()) for _ in range(2)]
        for _ in range(reloads):
            before = await Standing.open(w, process)
            await process.reload()
            assert await before.works()
            await before.close()
            assert all([await each.works() for each in standing])
        done = True
        await asyncio.gather(*load)
        assert reached > reloads, "that was no load"
        assert process.said.count("serving with") == reloads + 1
        assert len(process.workers()) <= 3, "only the first generation has connections yet, and the last serves"
        for each in standing:
            await each.close()
        await until(lambda: len(process.workers()) == 1)

    play(place, scene)


def test_a_reload_brings_the_configuration_and_even_another_port(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        standing = await Standing.open(w, process)
        old = process.port
        process.write(workers=2)
        assert process.port != old
        await process.reload()
        await reach(w, process)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", old)
        assert len(process.workers()) == 3
        assert await standing.works()
        await standing.close()

    play(place, scene)


def test_a_reload_to_what_cannot_work_changes_nothing(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        serving = process.workers()
        good = process.config.read_text()
        process.config.write_text(good + "no: such setting\n")
        process.signal(signal.SIGHUP)
        await process.says("the old program and configuration stay in use")
        assert "config.yaml" in process.said or "gateway.yaml" in process.said
        assert process.workers() == serving
        await reach(w, process)
        process.config.write_text(good)
        await process.reload()
        await reach(w, process)

    play(place, scene)


def test_a_worker_that_dies_is_replaced(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        (first,) = process.workers()
        os.kill(first, signal.SIGKILL)
        await reach(w, process)  # it waits in the socket's queue until then
        await process.says("ended with status -9; another takes its place")
        assert first not in process.workers()

    play(place, scene)


def test_worker_that_hangs_is_replaced_and_others_serve_on(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        standing = await Standing.open(w, process)
        hung = min(process.workers(), key=_descriptors)  # the other one has the connection
        os.kill(hung, signal.SIGSTOP)
        await asyncio.gather(*(reach(w, process) for _ in range(12)))  # some of them wait in the queue of the hung one
        assert f"worker process {hung} hangs and is killed" in process.said
        assert process.said.count("hangs and is killed") == 1
        assert hung not in process.workers()
        assert await standing.works()
        await standing.close()

    play(place, scene, workers=2, worker_timeout=2)


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_without_its_master_a_worker_finishes_what_stands(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        standing = await Standing.open(w, process)
        os.kill(process.pid, signal.SIGKILL)
        await process.says("no longer listening; 1 connections stand")
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", process.port)
        assert await standing.works()
        async with gateway_process(w) as another:
            await reach(w, another)
            assert await standing.works()
        await standing.close()
        await process.ends()

    play(place, scene)


def test_sigterm_ends_it_well_while_serving_and_while_waiting(place: Path) -> None:
    async def scene(w: World) -> None:
        async with gateway_process(w) as process:
            process.signal(signal.SIGTERM)
            assert await process.ends() == 0
        shutil.rmtree(w.place / "process")
        await w.controller.stop()
        waiting = GatewayProcess(w)
        await waiting.start()
        await waiting.says("no host certificate yet")
        waiting.signal(signal.SIGTERM)
        assert await waiting.ends() == 0

    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), world(place) as made:
            await scene(made)

    asyncio.run(whole())


def test_a_reload_waits_for_one_that_is_under_way(place: Path) -> None:
    async def scene(w: World, process: GatewayProcess) -> None:
        standing = await Standing.open(w, process)
        for _ in range(10):
            process.signal(signal.SIGHUP)
        await process.says("serving with", 2)
        await reach(w, process)
        assert await standing.works()
        await standing.close()

    play(place, scene)


@pytest.mark.parametrize("error", [None, OSError("no such table")])
def test_counts_of_ended_worker_are_cleared_before_it_is_reaped(error: Exception | None) -> None:
    """A worker that is gone from the master's children counts no more, and no other process has its id yet."""
    cleared = []

    def clear_up(pid: int) -> None:
        assert os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        cleared.append(pid)
        if error is not None:
            raise error

    async def ends(pid: int) -> int:
        async with asyncio.timeout(DEADLINE_S):
            return await Worker(pid, None, clear_up).ended

    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], {})
    assert asyncio.run(ends(pid)) == 3
    assert cleared == [pid]
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
