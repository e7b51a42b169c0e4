"""Many people at once, while many more connections come and go that never log in."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from tests.deadlines import TEST_DEADLINE_S
from tests.fakes import half_open
from tests.fakes.gateway_process import GatewayProcess, gateway_process
from tests.fakes.gateway_world import World, world
from tests.fakes.openssh import me, public


@dataclass(frozen=True)
class Crowd:
    """Sizes of one form of the test."""

    good: int
    """People who log in."""
    half_open: int


AT_ONCE = 3000
"""Half-open connections at one time: more than the two workers let wait together."""
SHORT = Crowd(good=150, half_open=4500)
FULL = Crowd(good=1000, half_open=10_000)
LOGINS = 16
"""The number of concurrent logins.

All of them are one process of the test: the more there are, the longer each is silent, and the gateway closes silent
connections. With 64, a machine with ten times the processes that it can run let 983 of the thousand in.
"""
USERS = 20
SLACK = 16 * 2**20
"""Bytes by which a worker may be larger after another crowd: memory that the first one left is the allocator's."""


def memory(pid: int) -> int:
    """Bytes that the process has for itself alone (proc(5), smaps_rollup)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":") for line in rollup.splitlines() if ":" in line and "kB" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Private_Clean", "Private_Dirty"))


def another_address() -> str:
    """Return an address of this machine that is not loopback: all of that is one source."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))  # of TEST-NET-1 (RFC 5737); it chooses a route and sends nothing
        return str(sock.getsockname()[0])


async def come(
    w: World, process: GatewayProcess, user: str, door: asyncio.Semaphore, everybody: asyncio.Barrier
) -> bool:
    """Log in, hear the session's sshd, and stay until everybody has."""
    client = None
    try:
        async with door:
            client = await asyncssh.connect(
                "127.0.0.1",
                process.port,
                username=user,
                client_keys=[str(w.key)],
                known_hosts=None,
                agent_path=None,
                config=None,
                login_timeout=120,
            )
            reader, _ = await client.open_connection(w.canonical, 22)
            return bool((await reader.readline()).startswith(b"SSH-2.0-OpenSSH"))
    except (asyncssh.Error, OSError):
        return False
    finally:
        await everybody.wait()
        if client is not None:
            client.close()
            await client.wait_closed()


async def many_come(w: World, process: GatewayProcess, users: list[str], good: int) -> int:
    """Let that many log in and stay at the same time; return how many got in."""
    door, everybody = asyncio.Semaphore(LOGINS), asyncio.Barrier(good)
    came = await asyncio.gather(*(come(w, process, users[number % USERS], door, everybody) for number in range(good)))
    return came.count(True)


@pytest.mark.parametrize(
    "crowd", [pytest.param(SHORT, id="short"), pytest.param(FULL, id="full", marks=pytest.mark.soak)]
)
@pytest.mark.parametrize(
    ("source", "exempt"),
    [
        pytest.param("127.0.0.1", ["127.0.0.0/8"], id="from the same address and without penalties"),
        pytest.param("", [], id="from another address"),
    ],
)
def test_a_crowd_gets_in_while_many_more_idle_at_the_door(
    place: Path, source: str, exempt: list[str], crowd: Crowd
) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    users = [f"user{number}" for number in range(USERS)]

    async def scene(w: World, process: GatewayProcess) -> None:
        for user in users:
            w.controller.keys[user] = [public(w.key)]
            w.controller.sessions[user, w.canonical] = w.controller.sessions[me(), w.canonical]
        workers = process.workers()
        flood = await asyncio.create_subprocess_exec(
            sys.executable,
            half_open.__file__,
            *map(str, (source or another_address(), process.port, crowd.half_open, AT_ONCE, 3.0)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert flood.stdout is not None
        assert await flood.stdout.readline() == b"begun\n"
        assert await many_come(w, process, users, crowd.good) >= crowd.good - 1
        assert int(await flood.stdout.readline()) > 0, "the door was never full: that was no flood"
        assert await flood.wait() == 0
        before = {pid: memory(pid) for pid in workers}
        assert await many_come(w, process, users, crowd.good) == crowd.good
        assert process.workers() == workers
        for pid in workers:
            assert memory(pid) < before[pid] + SLACK

    async def whole() -> None:
        async with (
            asyncio.timeout(3 * TEST_DEADLINE_S),
            world(place, session_max_startups=3 * crowd.good) as w,
            gateway_process(w, workers=2, penalty_exempt=exempt) as process,
        ):
            await scene(w, process)

    asyncio.run(whole())
