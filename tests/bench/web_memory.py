"""`web-memory`: what the login node keeps for a session with one open idle service, against `ssh -N -L` plus nginx."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from broker.names import new_id
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result
from tests.bench.web_ground import NGINX
from tests.fakes import openssh
from tests.fakes.openssh import free_port
from tests.fakes.web_process import web_process
from tests.fakes.web_world import ALIAS, allow_sessions, web_world
from tests.lab_cluster import wait_for
from tests.processes import process_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.ground import Ground
    from tests.fakes.web_world import WebWorld

NAME = "web-memory"
TARGET = Target(1.3)
SESSIONS = 16
FEW = 4
"""Sessions that are open before, so that nothing is loaded or made ready for the first of those that count."""
LIMIT_S = 120.0


def measure(ground: Ground, runs: int) -> Result:
    """All sessions have one sshd: it is on another node, and counts on neither side."""
    del ground
    sides = {"ours": lambda: asyncio.run(_ours()), "peer": lambda: asyncio.run(_peer())}
    found = in_turns(sides, runs, name=NAME, unit="kB")
    return result(NAME, found["ours"], found["peer"], "kB", TARGET)


async def _ours() -> float:
    async with asyncio.timeout(LIMIT_S), web_world() as world:
        sessions = [new_id() for _ in range(FEW + SESSIONS)]
        allow_sessions(world, sessions)
        async with web_process(world) as process:
            await process.says("ready:")
            few = 0.0
            for number, session_id in enumerate(sessions):
                if number == FEW:
                    few = await _settled(process.process.pid)
                await _open(world, session_id, number)
            return (await _settled(process.process.pid) - few) / SESSIONS


async def _open(world: WebWorld, session_id: str, number: int) -> None:
    """Let a browser in that asks for a page once."""
    host = f"echo--s{number}--alice.{world.settings.origins.domain}"
    visit = world.controller.visit(host, "echo", session_id)
    browser = await world.enter_by_portal(visit)
    while (await world.navigate(host, **world.cookie(browser))).status != 200:  # noqa: ASYNC110 - HAProxy sets no Event
        await asyncio.sleep(0.02)


async def _peer() -> float:
    async with asyncio.timeout(LIMIT_S), web_world() as world:
        return await asyncio.to_thread(_peer_memory, world)  # the service is on the event loop


def _peer_memory(world: WebWorld) -> float:
    place = world.place / "peer"
    place.mkdir()
    key = openssh.make_key(place / "key")
    authorized = world.place / "sshd" / "authorized_keys"
    authorized.write_text(f"restrict,port-forwarding {openssh.public(key)}\n")
    known = place / "known"
    known.write_text(f"@cert-authority {ALIAS} {world.authority_line}\n")
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(_tunnel(world, place, key, known, number)) for number in range(FEW)]
        with _nginx(place, FEW) as nginx:
            few = _pss([*pids, nginx])
        pids += [stack.enter_context(_tunnel(world, place, key, known, FEW + number)) for number in range(SESSIONS)]
        with _nginx(place, FEW + SESSIONS) as nginx:
            return (_pss([*pids, nginx]) - few) / SESSIONS


@contextlib.contextmanager
def _tunnel(world: WebWorld, place: Path, key: Path, known: Path, number: int) -> Iterator[int]:
    socket = place / f"{number}.sock"
    options = [f"-oUserKnownHostsFile={known}", f"-oHostKeyAlias={ALIAS}", "-oBatchMode=yes", f"-p{world.sshd_port}"]
    argv = ["ssh", "-F", "none", "-i", str(key), *options, "-N", "-L", f"{socket}:{world.place}/s/echo.sock"]
    with subprocess.Popen([*argv, f"{getpass.getuser()}@127.0.0.1"]) as ssh:
        try:
            wait_for(socket.exists, what="a tunnel")
            yield ssh.pid
        finally:
            ssh.terminate()


@contextlib.contextmanager
def _nginx(place: Path, count: int) -> Iterator[int]:
    """nginx with a server for each tunnel; each has answered once."""
    port = free_port()
    servers = "".join(
        f"  server {{ listen 127.0.0.1:{port}; server_name s{number}; "
        f"location / {{ proxy_pass http://unix:{place}/{number}.sock:/; }} }}\n"
        for number in range(count)
    )
    config = NGINX_MANY.format(place=place, servers=servers)
    (place / "nginx.conf").write_text(config)
    with subprocess.Popen(["nginx", "-e", "stderr", "-c", f"{place}/nginx.conf"]) as nginx:
        try:
            for number in range(count):
                curl = ["curl", "-sf", "-o", "/dev/null", "-H", f"Host: s{number}", f"http://127.0.0.1:{port}/"]
                wait_for(lambda argv=curl: subprocess.run(argv, check=False).returncode == 0, what="an answer")  # type: ignore[misc]
            yield nginx.pid
        finally:
            nginx.terminate()


async def _settled(pid: int) -> float:
    """The memory of berth-web when its processes are no longer changing."""
    before: list[int] = []
    while (present := process_tree(pid)) != before:
        before = present
        await asyncio.sleep(0.5)
    return _pss(present)


def _pss(pids: list[int]) -> int:
    """Kilobytes of these processes and their descendants together (proc(5), Pss)."""
    tree = {each for pid in pids for each in process_tree(pid)}
    total = 0
    for pid in tree:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


NGINX_MANY = NGINX.partition("  upstream page")[0] + "{servers}}}\n"
