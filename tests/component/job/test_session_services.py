"""The program inside a session that lists and starts services, and what it leaves of them."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker.names import new_id
from broker.service_catalogue import parse_catalogue
from profiles.recipe.service import Service, format_services
from tests.deadlines import DEADLINE_S
from tests.fakes import web_service
from tests.fakes.session_services import SessionDirectories
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SESSION_ID = new_id()
WEB = f"exec {sys.executable} {web_service.__file__}"


class ServiceProgram(SessionDirectories):
    """The program, called as a login calls it."""

    def set_limits(self, **constants: str) -> None:
        """Replace constants of the program."""
        text = self.program.read_text()
        for name, value in constants.items():
            text, count = re.subn(rf"\b{name}=\d+", f"{name}={value}", text)
            assert count == 1
        self.program.write_text(text)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", self.program, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "HOME": str(self.base / "home"), "BERTH_SESSION_ID": SESSION_ID},
        )  # fmt: skip

    @contextlib.contextmanager
    def attached(self, name: str, definition: str = "\n") -> Iterator[subprocess.Popen[str]]:
        """Have the service open."""
        with self.start("attach", name) as process:
            assert process.stdin is not None
            process.stdin.write(definition)
            process.stdin.flush()
            try:
                yield process
            finally:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                assert process.wait(DEADLINE_S) in {0, 1}

    def listing(self) -> bytes:
        with self.start("list") as process:
            return process.communicate(timeout=DEADLINE_S)[0].encode()

    def states(self) -> dict[str, str]:
        return {name: each.state for name, each in parse_catalogue(self.listing()).services.items()}

    def get(self, name: str, path: str = "/") -> str:
        """Return the answer of a service: its process id first."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(DEADLINE_S)
            connection.connect(str(self.base / f"web/{name}.sock"))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.read().decode()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[ServiceProgram]:
    with ServiceProgram(tmp_path / "session") as made:
        yield made


def lines_until(process: subprocess.Popen[str], last: str) -> list[str]:
    """Read the report up to a line."""
    assert process.stdout is not None
    found: list[str] = []
    while not found or found[-1] != last:
        line = process.stdout.readline()
        assert line, found
        found.append(line.rstrip("\n"))
    return found


def test_supervisor_without_a_definition_has_failed(program: ServiceProgram) -> None:
    """The user may remove the files of the service between the look of `attach` and that of its supervisor."""
    (program.base / "node/services/web").mkdir(parents=True)
    with program.start("run", "web", "0") as supervisor:
        said, _ = supervisor.communicate(timeout=DEADLINE_S)
    assert (supervisor.returncode, said) == (1, "berth: the definition of web cannot be read any more\n")
    assert (program.base / "node/services/web/state").read_text() == "failed\n"


def test_opened_service_is_ready_and_stays_when_it_is_closed(program: ServiceProgram) -> None:
    program.declare(Service(name="web", command=WEB, socket="web.sock"))
    assert program.states() == {"web": "stopped"}
    with program.attached("web") as report:
        assert [line for line in lines_until(report, "state ready") if line.startswith("state ")] == [
            "state starting",
            "state ready",
        ]
        first = program.get("web").split()[0]
        with program.attached("web") as second:
            assert lines_until(second, "state ready") == ["state ready"]
    assert program.get("web").split()[0] == first
    assert program.states() == {"web": "ready"}


def test_service_that_dies_is_started_again(program: ServiceProgram) -> None:
    program.declare(Service(name="web", command=WEB, socket="web.sock"))
    with program.attached("web") as report:
        lines_until(report, "state ready")
        pid = int(program.get("web").split()[0])
        os.kill(pid, signal.SIGKILL)
        lines_until(report, "state waiting 1")
        lines_until(report, "state ready")
        assert int(program.get("web").split()[0]) != pid
    log = (program.base / "node/services/web/log").read_text()
    assert "berth: web ended with code 137; it starts again in 1 s\n" in log
    assert "Killed" not in log


def test_service_that_ends_by_itself_stays_ended_until_it_is_opened(program: ServiceProgram) -> None:
    program.declare(Service(name="web", command=WEB, socket="web.sock"))
    with program.attached("web") as report:
        lines_until(report, "state ready")
        with contextlib.suppress(ConnectionError, http.client.HTTPException):
            program.get("web", "/end")
        lines_until(report, "state stopped")
    assert program.states() == {"web": "stopped"}
    with program.attached("web") as report:
        lines_until(report, "state ready")


def test_failing_service_shows_its_last_lines(program: ServiceProgram) -> None:
    program.set_limits(MAX_PAUSE_S="1")
    program.declare(Service(name="bad", command="echo begins; echo no such port >&2; exit 3", socket="bad.sock"))
    with program.attached("bad") as report:
        assert report.stdout is not None
        lines = report.stdout.read().splitlines()
    states = [line for line in lines if line.startswith("state ")]
    assert states[0] == "state starting"
    assert states[-1] == "state failed"
    end = lines[lines.index("state failed") + 1 :]
    assert end[-3:] == ["output begins", "output no such port", "output berth: bad ended with code 3, 3 times in a row"]
    assert program.states() == {"bad": "failed"}


def test_service_that_never_listens_fails_at_the_limit(program: ServiceProgram) -> None:
    program.set_limits(START_LIMIT_S="1")
    program.declare(Service(name="mute", command="sleep 600", socket="mute.sock"))
    with program.attached("mute") as report:
        assert report.stdout is not None
        lines = report.stdout.read().splitlines()
    assert lines[-1] == f"output berth: mute did not answer on {program.base}/web/mute.sock within 1 s"


def test_probe_decides_when_a_service_is_ready(program: ServiceProgram) -> None:
    mark = program.base / "answers"
    program.declare(Service(name="web", command=WEB, socket="web.sock", ready=f"[ -e {mark} ]"))
    with program.attached("web") as report:
        wait_for((program.base / "web/web.sock").exists, what="the socket")
        assert program.states() == {"web": "starting"}
        mark.touch()
        lines_until(report, "state ready")


def test_own_service_replaces_the_profiles(program: ServiceProgram) -> None:
    program.declare(Service(name="web", command="exit 1", socket="web.sock"))
    own = Service(name="web", command=WEB, socket="web.sock")
    with program.attached("web", format_services([own])) as report:
        lines_until(report, "state ready")


def test_sockets_of_services_that_are_defined_at_once_are_all_admitted(program: ServiceProgram) -> None:
    program.declare(Service(name="web", command=WEB, socket="web.sock"))
    names = [f"own{number}" for number in range(8)]
    with contextlib.ExitStack() as stack:
        for name in names:
            own = Service(name=name, command="sleep 600", socket=f"{name}.sock")
            stack.enter_context(program.attached(name, format_services([own])))
        wait_for(lambda: len(program.supervisors()) == len(names), what="the services to start")
    line = (program.base / "node/web_principals").read_text().splitlines()[0]  # the others are for guests
    assert line.startswith(f'restrict,port-forwarding,command="/bin/bash {program.program} door ')
    assert line.endswith(f" web:{SESSION_ID}")
    sockets = {f"{name}.sock" for name in [*names, "web"]}
    assert {*re.findall(r'permitopen="\[[^]]*/web/([^]]*)\]:\*"', line)} == sockets
    command = re.search(r'door ([^"]*)"', line)
    assert command is not None
    assert {*command[1].split()} == sockets


def test_session_without_services_admits_to_no_socket(program: ServiceProgram) -> None:
    program.declare()
    (program.base / "node/services").mkdir()
    with program.start("admit") as process:
        assert process.wait(DEADLINE_S) == 0
    assert (program.base / "node/web_principals").read_text() == ""


def test_list_has_bounded_parts_of_regular_files_only(program: ServiceProgram) -> None:
    folder = program.base / "home/.config/berth/services.d"
    (folder / "a.yaml").write_text("services: [{name: own, command: serve, title: Größe}]\n")
    (folder / "b.yaml").write_bytes(b"#" * 300_000)
    (folder / "ignored.txt").write_text("services: []")
    os.mkfifo(folder / "pipe.yaml")
    (folder / "zero.yaml").symlink_to("/dev/zero")
    answer = program.listing()
    assert len(answer) < 200_000
    found = parse_catalogue(answer)
    assert found.services["own"].title == "Größe"
    assert sorted(found.problems) == [
        "services.d/b.yaml: larger than 128 KiB",
        "services.d/pipe.yaml: not a regular file that can be read",
        "services.d/zero.yaml: not a regular file that can be read",
    ]
    for number in range(40):
        (folder / f"n{number}.yaml").write_text("services: []\n")
    assert "services.d: more than 32 files; the others are ignored" in parse_catalogue(program.listing()).problems


@pytest.mark.parametrize("words", [["attach", "../x"], ["attach", "none"], ["attach"], ["stop"], []])
def test_requests_for_anything_else_are_refused(program: ServiceProgram, words: list[str]) -> None:
    program.declare(Service(name="web", command=WEB, socket="web.sock"))
    with program.start(*words) as process:
        out, _ = process.communicate("\n", timeout=DEADLINE_S)
    assert out.startswith("refused ")
    assert process.returncode == 1


def test_log_of_a_service_is_bounded(program: ServiceProgram) -> None:
    program.set_limits(LOG_BYTES="20000", READY_LOOK_S="1")
    program.declare(Service(name="web", command=f"yes | head -c 100000; {WEB}", socket="web.sock"))
    with program.attached("web") as report:
        lines_until(report, "state ready")
        log = program.base / "node/services/web/log"
        wait_for(
            lambda: log.stat().st_size < 20000 and log.read_text().endswith("y\nthe service listens\n"),
            what="the shortened log",
        )
