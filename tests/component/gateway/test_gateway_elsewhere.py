"""A gateway on another login node than the controller's: the unit's own ssh command is its way there."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from broker.gateway.server import Gateway
from tests.fakes import openssh
from tests.fakes.gateway_world import World, play, until
from tests.fakes.openssh import me, public

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SITE = Path(__file__).parents[3] / "docs" / "howto" / "site.md"
RESTRICTED = (
    "AllowStreamLocalForwarding local",
    "PermitListen none",
    "PermitTTY no",
    "ForceCommand /usr/sbin/nologin",
)
"""The lines of sshd_config that docs/howto/site.md has administrators write for the account."""
UNIT = Path(__file__).parents[3] / "broker" / "systemd" / "berth-gateway-api.service"


@contextlib.asynccontextmanager
async def tunnel(w: World, port: int, place: Path) -> AsyncIterator[Path]:
    """The unit's command, with this test's places; gives the socket that it makes."""
    line = re.search(r"^ExecStart=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert line
    words = line[1]
    for usual, here in {
        "/var/lib/berth-gateway/": f"{place}/",
        "/run/berth-gateway-api/": f"{place}/",
        "/run/berth/api.sock": str(w.controller.path),
        "berth-gateway@LOGIN1": f"-p {port} {me()}@127.0.0.1",
    }.items():
        assert usual in words
        words = words.replace(usual, here)
    process = await asyncio.create_subprocess_exec(*shlex.split(words))
    try:
        await until(lambda: _listens(place / "api.sock"))
        yield place / "api.sock"
    finally:
        process.terminate()
        await process.wait()


def _listens(path: Path) -> bool:
    """Whether ssh has made its socket; the file of the last one may still be there."""
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def test_a_gateway_on_another_node_asks_through_ssh(place: Path) -> None:
    said = {line.strip() for line in SITE.read_text(encoding="utf-8").splitlines()}
    assert set(RESTRICTED) <= said

    async def scene(w: World) -> None:
        other = place / "other"
        other.mkdir()
        key = openssh.make_key(other / "api_key")
        login1 = place / "login1"
        login1.mkdir()
        async with openssh.sshd(login1, public(key), *RESTRICTED) as port:
            host = public(login1 / "host").split()
            (other / "known_hosts").write_text(f"[127.0.0.1]:{port} {host[0]} {host[1]}\n")
            settings = dataclasses.replace(w.settings, host_key=other / "own" / "key", api_socket=other / "api.sock")
            async with tunnel(w, port, other):
                w.gateway = Gateway(settings)
                await w.gateway.__aenter__()
                assert (await w.ssh("dev.berth", "echo in")).out == b"in\n"
            done = await w.ssh("dev.berth", "echo in")
            assert done.out == b"in\n", "the other node is away"
            assert "the controller does not answer" in done.err
            async with tunnel(w, port, other):
                again = await w.ssh("dev.berth", "echo in")
                assert (again.out, again.err) == (b"in\n", "")
            await w.gateway.__aexit__(None, None, None)

    play(place, scene)
