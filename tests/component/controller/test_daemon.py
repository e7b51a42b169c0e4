"""A real controller process, in personal mode over stand-ins for Slurm's programs: its start, end and company."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.client.client import Client
from broker.config.settings import Config
from broker.controller import process as daemon
from broker.errors import BerthError, ConflictError, ExitCode, InvalidInputError
from broker.schema.sessions import SessionState, StartRequest
from broker.service.log_limit import LINES_PER_WINDOW
from profiles.image.store import Store
from tests.deadlines import DEADLINE_S
from tests.fakes.core import publish
from tests.processes import process_children
from tests.short_form import mostly_soak

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.postgresql import PostgreSQL

CHECKOUT = Path(__file__).parents[3]
NOBODY = "65534"
AS_A_PERSON = ["unshare", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"] if os.getuid() == 0 else []
"""The launcher never acts for root, so root has no personal mode; in a user namespace, launcher and test have another
user id (user_namespaces(7))."""


class Home:
    """One user's directories, configuration and stand-ins, and controllers started on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runtime, self.state, self.programs = directory / "run", directory / "state", directory / "bin"
        self.programs.mkdir()
        self.program("squeue", "exit 0")
        self.program("sbatch", "echo 7")
        self.program("scontrol", "echo 'SLURM_VERSION = 26.05.5'")
        self.program("sacct", "exit 0")
        self.file = directory / "config.yaml"
        self.file.write_text(
            f"mode: personal\nruntime_dir: {self.runtime}\nstate_dir: {self.state}\nidle_exit: 600\n"
            f"storage: {{root: '{directory}/data/{{user}}'}}\nprofiles: {{stores: [{directory}/store]}}\n"
            "slurm: {backend: commands, submit_timeout: 5}\n"
        )
        publish(Store(directory / "store"))
        self.log = directory / "log"
        self.processes: list[subprocess.Popen[bytes]] = []

    def use(self, registry: str) -> None:
        """Have its controllers use the registry behind this URL."""
        with self.file.open("a") as file:
            file.write(f"registry: {{url: '{registry}'}}\n")

    @property
    def config(self) -> Config:
        return Config.model_validate({"mode": "personal", "runtime_dir": self.runtime, "state_dir": self.state})

    @property
    def client(self) -> Client:
        return Client(self.runtime / "api.sock")

    def program(self, name: str, script: str) -> None:
        """A stand-in for one of Slurm's commands."""
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*AS_A_PERSON, sys.executable, "-m", "broker.cli", "controller"],
                cwd=CHECKOUT,
                env=os.environ
                | {"BERTH_CONFIG": str(self.file), "PATH": f"{self.programs}:{os.environ['PATH']}"}
                | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def up(self) -> subprocess.Popen[bytes]:
        process = self.start()
        self.wait(self.client.health, process)
        return process

    def wait(self, condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            ended = process is not None and process.poll() is not None
            assert not ended, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE_S)


@pytest.fixture
def home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="berth-") as name:  # short: a socket's path has at most 107 bytes
        made = Home(Path(name))
        try:
            yield made
        finally:
            made.end()


@pytest.fixture
def other_home() -> Iterator[Home]:
    with tempfile.TemporaryDirectory(prefix="berth-") as name:
        made = Home(Path(name))
        try:
            yield made
        finally:
            made.end()


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_registry(request: pytest.FixtureRequest, home: Home, other_home: Home) -> Iterator[None]:
    """One registry for two controllers, which share nothing else."""
    server: PostgreSQL | None = None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
    for each in (home, other_home):
        each.use(server.url if server is not None else f"sqlite:///{home.directory}/registry.db")
    yield
    for each in (home, other_home):
        each.end()


def test_it_serves_until_it_is_told_to_stop(home: Home) -> None:
    process = home.up()
    assert home.client.site().mode == "personal"
    assert [check.name for check in home.client.doctor() if not check.ok] == []
    assert (home.runtime / "api.sock").stat().st_mode & 0o077 == 0
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0


def test_a_stop_waits_for_the_submission_under_way(home: Home) -> None:
    """SIGTERM while sbatch runs: its answer is recorded before the controller ends, and the next one knows the job."""
    go = home.directory / "go"
    home.program("sbatch", f"touch {home.directory}/began; while ! [ -e {go} ]; do sleep 0.05; done; echo 7")
    process = home.up()
    with contextlib.ExitStack() as stack:
        caller = stack.enter_context(socket.socket(socket.AF_UNIX))
        caller.connect(str(home.runtime / "api.sock"))
        body = StartRequest(profile="base").model_dump_json(exclude_none=True).encode()
        head = b"POST /v1/sessions/dev/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
        caller.sendall(head + str(len(body)).encode() + b"\r\n\r\n" + body)
        home.wait((home.directory / "began").exists, process)
        process.send_signal(signal.SIGTERM)
        home.wait(lambda: "Shutting down" in home.log.read_text() or not home.client.health())
        go.touch()
        assert process.wait(DEADLINE_S) == 0
    again = home.up()
    assert home.client.session("dev").job_id == 7
    again.send_signal(signal.SIGTERM)
    assert again.wait(DEADLINE_S) == 0


def test_a_hanging_sbatch_does_not_keep_it(home: Home) -> None:
    home.program("sbatch", f"touch {home.directory}/began; exec sleep 100")
    process = home.up()
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(home.runtime / "api.sock"))
        caller.sendall(
            b"POST /v1/sessions/dev/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b'Content-Length: 18\r\n\r\n{"profile":"base"}'
        )
        home.wait((home.directory / "began").exists, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0
    home.program("sbatch", "echo 8")
    home.up()
    assert home.client.session("dev").state is SessionState.SUBMITTING


@pytest.mark.parametrize("point", mostly_soak("start.submitted", "start.intent-recorded", "start.prepared"))
def test_a_crash_leaves_what_the_next_one_goes_on_with(home: Home, point: str) -> None:
    process = home.start(BERTH_CRASH_AT=point)
    home.wait(home.client.health, process)
    with contextlib.suppress(Exception):
        home.client.start("dev", StartRequest(profile="base"))
    assert process.wait(DEADLINE_S) == -signal.SIGKILL
    home.up()
    assert home.client.session("dev").generation == "1.0"


def test_when_its_launcher_dies_it_ends_so_that_both_start_anew(home: Home) -> None:
    process = home.up()
    home.wait(lambda: bool(process_children(process.pid)))
    launcher = next(
        pid
        for pid in process_children(process.pid)
        if "broker.launcher.server" in Path(f"/proc/{pid}/cmdline").read_text()
    )
    os.kill(launcher, signal.SIGKILL)
    assert process.wait(DEADLINE_S) == 1
    assert "the launcher has left" in home.log.read_text()
    assert "Traceback" not in home.log.read_text()


def test_there_is_one_controller_at_a_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "LOCK_TIMEOUT_S", 0.2)
    with (
        daemon._exclusive_lock(home.config),
        pytest.raises(ConflictError, match="another controller uses"),
        daemon._exclusive_lock(home.config),
    ):
        pass
    with daemon._exclusive_lock(home.config):
        pass


@pytest.mark.usefixtures("shared_registry")
def test_second_controller_on_one_registry_is_refused(home: Home, other_home: Home) -> None:
    first = home.up()
    home.client.start("dev", StartRequest(profile="base"))
    second = other_home.start()
    assert second.wait(DEADLINE_S) == ExitCode.CONFLICT
    said = other_home.log.read_text()
    assert f"process {first.pid} on {os.uname().nodename}" in said
    assert "registry.url" in said
    assert "Traceback" not in said
    assert home.client.session("dev").job_id == 7


@pytest.mark.usefixtures("shared_registry")
def test_killed_controllers_registry_is_free_at_once(home: Home, other_home: Home) -> None:
    first = home.up()
    home.client.start("dev", StartRequest(profile="base"))
    first.kill()
    other_home.up()
    assert other_home.client.session("dev").job_id == 7


def test_restart_of_postgresql_keeps_the_controller(home: Home, postgresql: PostgreSQL) -> None:
    home.use(postgresql.url)
    process = home.up()
    home.client.start("dev", StartRequest(profile="base"))
    postgresql.stop()
    try:
        home.wait(lambda: "may be lost" in home.log.read_text(), process)
        with pytest.raises(BerthError, match="registry"):
            home.client.stop("dev")
    finally:
        postgresql.start()
    home.wait(lambda: "is held again" in home.log.read_text(), process)
    assert home.client.session("dev").state is SessionState.QUEUED
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0


def test_controller_ends_when_another_has_its_lock(home: Home, other_home: Home, postgresql: PostgreSQL) -> None:
    """As after a failover: while it could not reach the database, another one has taken over. Its launcher goes too."""
    for each in (home, other_home):
        each.use(postgresql.url)
    process = home.up()
    postgresql.stop()
    try:
        home.wait(lambda: "may be lost" in home.log.read_text(), process)
        process.send_signal(signal.SIGSTOP)
    finally:
        postgresql.start()
    other_home.up()
    process.send_signal(signal.SIGCONT)
    assert process.wait(DEADLINE_S) == 1
    assert "the lock on the registry is lost: another controller" in home.log.read_text()
    assert other_home.client.sessions() == []
    other_home.end()


def test_a_successor_waits_for_the_one_that_leaves(home: Home) -> None:
    with daemon._exclusive_lock(home.config):
        process = home.start()
        home.wait(lambda: _waits(process.pid, home.state / "controller.lock"), process)
        assert not home.client.health()
    home.wait(home.client.health, process)


def _waits(pid: int, lock: Path) -> bool:
    """Whether the process has the lock's file open, which is when it tries to get it."""
    with contextlib.suppress(OSError):
        return any(entry.readlink() == lock for entry in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_a_place_that_others_may_write_to_is_refused(home: Home) -> None:
    home.runtime.mkdir(mode=0o700)
    home.runtime.chmod(0o777)
    with pytest.raises(InvalidInputError, match="write"), daemon._exclusive_lock(home.config):
        pass


def test_a_socket_that_a_dead_controller_left_is_replaced(home: Home) -> None:
    process = home.up()
    process.kill()
    process.wait(DEADLINE_S)
    assert (home.runtime / "api.sock").exists()
    home.up()
    assert home.client.sessions() == []


def test_invalid_requests_fill_no_log(home: Home) -> None:
    """Each caused a line; now there are as many as the limit allows, and one with the number of the others."""
    process = home.up()
    for _ in range(LINES_PER_WINDOW * 4):
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(home.runtime / "api.sock"))
            caller.sendall(b"\0\r\n\r\n")
            caller.recv(100)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 0
    lines = [line for line in home.log.read_text().splitlines() if "Invalid HTTP request" in line]
    suppressed = [int(found[1]) for line in lines if (found := re.search(r"(\d+) more like this in the last", line))]
    assert suppressed, lines
    assert len(lines) - len(suppressed) + sum(suppressed) == LINES_PER_WINDOW * 4


def test_in_site_mode_only_the_launcher_starts_it(home: Home) -> None:
    home.file.write_text(f"mode: site\nruntime_dir: {home.runtime}\nstate_dir: {home.state}\ngateway: {{host: x}}\n")
    process = home.start()
    assert process.wait(DEADLINE_S) != 0
    assert "berth-launcher" in home.log.read_text()


def test_a_launcher_with_another_storage_is_refused(home: Home) -> None:
    home.file.write_text(
        f"mode: site\nruntime_dir: {home.runtime}\nstate_dir: {home.state}\ngateway: {{host: x}}\n"
        "storage: {root: '/one/{user}'}\nslurm: {backend: commands}\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.set_inheritable(theirs.fileno(), True)
        launcher = subprocess.Popen(
            [sys.executable, "-m", "broker.launcher.server", f"--serve-fd={ours.fileno()}", "--storage=/two/{user}"],
            cwd=CHECKOUT,
            pass_fds=[ours.fileno()],
        )
        home.processes.append(launcher)
        result = subprocess.run(
            [sys.executable, "-m", "broker.cli", "controller"],
            cwd=CHECKOUT,
            env=os.environ | {"BERTH_CONFIG": str(home.file), "BERTH_LAUNCHER_FD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert result.returncode != 0
    assert "/two/" in result.stderr
    assert "/one/" in result.stderr
