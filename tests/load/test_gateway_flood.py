"""A thousand people at once, while ten times as many connections come and go that never log in."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
from pathlib import Path

import asyncssh
import pytest

from tests.deadlines import TEST_DEADLINE_S
from tests.fakes import half_open
from tests.fakes.gateway_process import GatewayProcess, gateway_process
from tests.fakes.gateway_world import World, world
from tests.fakes.openssh import me, public

GOOD = 1000
LOGINS = 16
"""How many of them log in at the same time. All of them are one process of the test: the more there are, the longer
each is silent, and the gateway parts with who is silent for long. With 64, a machine with ten times the processes that
it can run let 983 of the thousand in."""
HALF_OPEN = 10_000
AT_ONCE = 3000
"""More than the two workers let wait together."""
USERS = 20
SLACK = 16 * 2**20
"""Bytes by which a worker may be larger after another thousand: what the first have left is the allocator's."""


def memory(pid: int) -> int:
    """Bytes that the process has for itself alone (proc(5), smaps_rollup)."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    fields = dict(line.split(":") for line in rollup.splitlines() if ":" in line and "kB" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("Private_Clean", "Private_Dirty"))


def another_address() -> str:
    """One of this machine's that is not loopback, which all is one source."""
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


async def many_come(w: World, process: GatewayProcess, users: list[str]) -> int:
    """Have GOOD of them in at the same time; how many got in."""
    door, everybody = asyncio.Semaphore(LOGINS), asyncio.Barrier(GOOD)
    came = await asyncio.gather(*(come(w, process, users[number % USERS], door, everybody) for number in range(GOOD)))
    return came.count(True)


@pytest.mark.parametrize(
    ("source", "exempt"),
    [
        pytest.param("127.0.0.1", ["127.0.0.0/8"], id="from the same address and without penalties"),
        pytest.param("", [], id="from another address"),
    ],
)
def test_a_thousand_get_in_while_ten_thousand_idle_at_the_door(place: Path, source: str, exempt: list[str]) -> None:
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
            *map(str, (source or another_address(), process.port, HALF_OPEN, AT_ONCE, 3.0)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert flood.stdout is not None
        assert await flood.stdout.readline() == b"begun\n"
        assert await many_come(w, process, users) >= GOOD - GOOD // 1000
        assert int(await flood.stdout.readline()) > 0, "the door was never full: that was no flood"
        assert await flood.wait() == 0
        before = {pid: memory(pid) for pid in workers}
        assert await many_come(w, process, users) == GOOD
        assert process.workers() == workers
        for pid in workers:
            assert memory(pid) < before[pid] + SLACK

    async def whole() -> None:
        async with (
            asyncio.timeout(3 * TEST_DEADLINE_S),
            world(place, session_max_startups=3 * GOOD) as w,
            gateway_process(w, workers=2, penalty_exempt=exempt) as process,
        ):
            await scene(w, process)

    asyncio.run(whole())
