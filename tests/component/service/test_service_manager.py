"""Messages of the services to systemd, on a real datagram socket."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.launcher.server import _exit_code
from broker.service import notify
from tests.deadlines import DEADLINE_S
from tests.fakes.gateway_process import GatewayProcess, gateway_process
from tests.fakes.gateway_world import World, world
from tests.fakes.service_manager import Datagrams

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[3]
LAUNCHER = """
import os, subprocess, sys
from broker.launcher import server as launcher
real = subprocess.Popen
def start(argv, user, group, extra_groups, **options):
    return real(argv, **options)
if os.getuid() != 0:
    launcher.subprocess.Popen = start  # nobody else may set their groups
sys.exit(launcher.main(sys.argv[1:]))
"""
CONTROLLER = """
import os, signal, socket, sys
control = socket.socket(fileno=int(os.environ["BERTH_LAUNCHER_FD"]))
assert "NOTIFY_SOCKET" not in os.environ
print("begun", flush=True)
sys.stdin.readline()
control.sendall(b'{"id": 0, "verb": "ready"}\\n')
sys.stdin.readline()
%s
"""


@pytest.fixture
def systemd(place: Path) -> Iterator[Datagrams]:
    with Datagrams(place / "notify") as made:
        yield made


def launched(systemd: Datagrams, end: str) -> subprocess.Popen[str]:
    """Start the launcher with a controller that takes a step at each line of its input, and at last does `end`."""
    account = pwd.getpwuid(os.getuid()).pw_name
    command = ["--account", account, "--storage", "/nowhere/{user}", "--", sys.executable, "-c", CONTROLLER % end]
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, *command],
        cwd=CHECKOUT,
        env=os.environ | {"NOTIFY_SOCKET": str(systemd.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def begun(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"


def test_service_has_started_when_the_controller_says_so(systemd: Datagrams) -> None:
    with launched(systemd, "signal.pause()") as process:
        begun(process)
        assert systemd.waiting() == []
        go_on(process)
        assert systemd.next() == "READY=1"
        go_on(process)
        process.send_signal(signal.SIGTERM)
        assert systemd.next() == "STOPPING=1"
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM
    assert systemd.waiting() == []


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139),
        ("sys.exit(3)", 3),
        ("", 0),
    ],
)
def test_unit_ends_with_the_controllers_code_or_128_and_its_signal(systemd: Datagrams, end: str, code: int) -> None:
    with launched(systemd, end) as process:
        begun(process)
        go_on(process)
        go_on(process)
        assert process.wait(DEADLINE_S) == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGBUS])
def test_signal_becomes_a_code_of_a_shell(number: signal.Signals) -> None:
    assert _exit_code(-number) == 128 + number


def test_gateway_tells_of_its_start_its_reloads_and_its_end(
    place: Path, systemd: Datagrams, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(w: World) -> None:
        monkeypatch.setenv("NOTIFY_SOCKET", str(systemd.path))
        async with asyncio.timeout(100), gateway_process(w, workers=2) as process:
            assert systemd.waiting() == ["READY=1"]
            assert all(b"NOTIFY_SOCKET" not in environment(each) for each in process.workers())
            before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            for times in (1, 2):
                await process.reload()
                reloading, ready = systemd.waiting()
                word, _, at = reloading.partition("\nMONOTONIC_USEC=")
                assert (word, ready) == ("RELOADING=1", "READY=1")
                assert before <= int(at) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                assert all(b"NOTIFY_SOCKET" not in environment(each) for each in process.workers()), times
            await refused_reload(process, systemd)
        assert set(systemd.waiting()) == {"STOPPING=1"}

    async def refused_reload(process: GatewayProcess, systemd: Datagrams) -> None:
        process.config.write_text("mode: [")
        process.signal(signal.SIGHUP)
        await process.says("stay in use")
        reloading = await asyncio.to_thread(systemd.next)
        assert reloading.startswith("RELOADING=1")
        assert await asyncio.to_thread(systemd.next) == "READY=1"

    async def whole() -> None:
        async with world(place) as w:
            await scene(w)

    asyncio.run(whole())


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def test_message_that_nobody_takes_is_no_failure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("", str(place / "gone"), "@gone", "relative"):
        monkeypatch.setattr(notify, "_address", address)
        notify.notify_ready()


def test_abstract_address_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"berth-test-{os.getpid()}"
    with Datagrams(f"\0{name}") as systemd:  # type: ignore[arg-type]
        monkeypatch.setattr(notify, "_address", f"@{name}")
        notify.notify_ready()
        assert systemd.next() == "READY=1"
