"""Ctrl-C at each stage of a command: while modules load, at each request, and at the end.

No traceback appears, and a command whose request the controller may carry out says so.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import ControllerUnavailableError, ExitCode
from broker.schema.sessions import SessionState
from broker.schema.volumes import SnapshotView
from tests.deadlines import DEADLINE_S
from tests.fakes.controller import ScriptedController, operation, ready, view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

COMMANDS = {
    "start dev": "start",
    "start dev other --no-wait": "start",
    "stop run": "stop",
    "stop run other --no-wait": "stop",
    "restart run": "stop",
    "delete dev --purge --yes": "purge",
    "restore gone": "restore",
    "snapshot run one": "snapshot",
    "rollback run 1 --yes": "rollback",
    "clone run trial --start": "clone",
    "switch run base@2 --yes": "switch",
    "resize run --mem=2G": "resize",
    "extend run 4h": "",
    "set run --idle 8h": "",
    "exec --root --yes run -- true": "root",
    "exec run -- true": "",
    "rename dev new": "rename",
    "flatten dev": "",
    "verify run": "",
    "size run": "",
    "diff run": "",
    "sbatch --env dev job.sh": "",
    "gc": "",
    "login": "",
    "logs run -f": "",
}
"""Command → the operation of the session after its request."""

FEW = ["start dev", "delete dev --purge --yes", "clone run trial --start", "exec --root --yes run -- true"]
FEW += ["resize run --mem=2G", "sbatch --env dev job.sh", "stop run other --no-wait", "login"]

SSH_FAILED = 255
"""The exit code of ssh, which `berth exec` becomes."""

INTERRUPTED = {ExitCode.INTERRUPTED, -signal.SIGINT}
"""Both are 130 for a shell. Python ends itself with SIGINT if Ctrl-C came during its exec() of a text, as dataclasses
call it, even if the program has handled the exception."""

LOOKS = ("/v1/resolve", "/v1/connections")
TOLD = (
    "still",
    "was sent",
    "were sent",
    "nothing was run",
    "may still be",
    "removes the environment",
    "continues in the background",
)
STAGES = 8
"""Requests at which a command is interrupted, if it does not end or wait for the session before."""

LAUNCH = """
import os, signal, sys, atexit

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
if {module!r} == "atexit":
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
from broker.cli import main
main()
"""


class Interrupting(ScriptedController):
    """Sends SIGINT to the command at one of its requests, and does not answer that request."""

    stage = 0
    process: subprocess.Popen[str] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.received: list[tuple[str, str]] = []
        self.waits = False
        self.begun = threading.Event()

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> BaseModel:  # noqa: ANN401 - JSON
        self.received.append((method, path))
        self.begun.set()
        if len(self.received) == self.stage:
            self.waits = "after" in query
            assert self.process is not None
            self.process.send_signal(signal.SIGINT)
            self.process.wait(DEADLINE_S)
            raise ControllerUnavailableError("the command has ended")
        return super().answer(method, path, query, body)

    @property
    def changes(self) -> list[str]:
        return [path for method, path in self.received if method != "GET" and path not in LOOKS]


def fill(controller: Interrupting, command: str, stage: int) -> None:
    """Give the controller the same sessions as before; their operation does not end."""
    controller.stage, controller.received, controller.waits = stage, [], False
    shutil.rmtree(controller.directory / "environment", ignore_errors=True)
    running = operation(COMMANDS[command] or "snapshot")
    controller.sessions = {"dev": view("dev"), "other": view("other"), "run": ready("run")}
    controller.deleted = {"gone": view("gone", operation=operation("restore"))}
    controller.snapshots["run"] = [
        SnapshotView(number=1, at=1.0, consistency="stopped", profile="base", version="1"),
    ]
    changing = {"operation": running, "revision": 2}
    controller.script["run"] = deque([view("run", SessionState.CHANGING, **changing)])
    controller.script["trial"] = deque([view("trial", SessionState.CHANGING, **changing)])
    controller.script["dev"] = deque([view("dev", SessionState.QUEUED, revision=2)])
    if command.startswith("delete"):
        controller.script["dev"] = deque([view("dev", SessionState.DELETING, revision=2)])
    if command.startswith("exec --root"):  # it brings the session back after Ctrl-C
        controller.script["run"].extend([view("run", revision=3), ready("run", revision=4)])
    if command.startswith("stop"):
        controller.script["run"] = deque([ready("run").model_copy(update={"state": SessionState.STOPPING})])


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Interrupting]:
    with Interrupting() as running:
        running.site = running.site.model_copy(update={"login_with": "certificates"})
        stores = f"profiles:\n  stores: [{tmp_path / 'store'}]\n"
        (tmp_path / "config.yaml").write_text(f"runtime_dir: {running.directory}\n{stores}", encoding="utf-8")
        (tmp_path / "job.sh").write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / "sbatch").write_text("#!/bin/sh\nexec cat\n", encoding="utf-8")
        (tmp_path / "sbatch").chmod(0o755)
        yield running


def begin(words: list[str], home: Path, *, program: tuple[str, ...] = ("-m", "broker.cli")) -> subprocess.Popen[str]:
    environment = {
        "HOME": str(home),
        "PATH": f"{home}:/usr/bin:/bin",
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "BERTH_CONFIG": str(home / "config.yaml"),
    }
    return subprocess.Popen(
        [sys.executable, *program, *words],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupted_at(controller: Interrupting, command: str, stage: int, home: Path) -> tuple[int, str]:
    """Run the command, and interrupt it at this request; return exit code and stderr."""
    fill(controller, command, stage)
    controller.process = begin(command.split(), home)
    _, said = controller.process.communicate(timeout=DEADLINE_S)
    return controller.process.returncode, said


def check(controller: Interrupting, command: str, code: int, said: str) -> None:
    assert code in INTERRUPTED, (command, controller.received, said)
    assert "Traceback" not in said, (command, controller.received, said)
    assert "internal error" not in said, (command, controller.received, said)
    assert "berth: interrupted" in said, (command, controller.received, said)
    if controller.changes:
        assert any(words in said for words in TOLD), (command, controller.received, said)


@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=[] if each in FEW else pytest.mark.soak) for each in COMMANDS]
)
def test_ctrl_c_at_each_request(controller: Interrupting, tmp_path: Path, command: str) -> None:
    for stage in range(1, STAGES):
        code, said = interrupted_at(controller, command, stage, tmp_path)
        if len(controller.received) < stage:
            break  # the command has ended before
        check(controller, command, code, said)
        if controller.waits:
            break  # it would wait on
    assert stage > 1, said


def test_ctrl_c_names_all_sessions_with_a_request(controller: Interrupting, tmp_path: Path) -> None:
    code, said = interrupted_at(controller, "stop run other --no-wait", 2, tmp_path)
    assert code in INTERRUPTED
    assert said.strip() == (
        "berth: interrupted; the requests for run, other were sent, and Berth may carry them out\n"
        "  hint: `berth list` shows their states"
    )


@pytest.mark.parametrize(
    ("command", "module"),
    [
        *(
            ("list -o wide", module)
            for module in ("broker.cli.app", "click", "broker.cli.commands.list", "broker.cli.output", "json", "atexit")
        ),
        *(("list", module) for module in ("broker.cli.short_commands", "broker.cli.output", "json", "atexit")),
    ],
)
def test_ctrl_c_outside_of_the_work(controller: Interrupting, tmp_path: Path, command: str, module: str) -> None:
    """While a module is loaded, and when Python ends."""
    fill(controller, "logs run -f", 0)
    process = begin(command.split(), tmp_path, program=("-c", LAUNCH.format(module=module)))
    _, said = process.communicate(timeout=DEADLINE_S)
    assert process.returncode in INTERRUPTED, said
    assert said.strip() in {"", "berth: interrupted"}


def test_ctrl_c_while_a_similar_name_is_looked_for(controller: Interrupting, tmp_path: Path) -> None:
    fill(controller, "logs run -f", 2)
    controller.process = begin(["show", "rum"], tmp_path)
    _, said = controller.process.communicate(timeout=DEADLINE_S)
    assert len(controller.received) == 2
    assert (controller.process.returncode, said) == (ExitCode.NOT_FOUND, "berth: you have no session named rum\n")


def test_an_ignored_sigint_stays_ignored(controller: Interrupting, tmp_path: Path) -> None:
    """As with nohup, and in the background of a script."""
    fill(controller, "logs run -f", 0)
    ignoring = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    process = begin(["list"], tmp_path, program=("-c", ignoring + LAUNCH.format(module="json")))
    shown, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, said) == (0, "")
    assert "run" in shown


@pytest.mark.soak
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_at_random_times(controller: Interrupting, tmp_path: Path, command: str) -> None:
    """After the first request: before Berth's code runs, Python itself shows a KeyboardInterrupt."""
    chance = random.Random(command)  # noqa: S311 - the same times in each run
    for _ in range(20):
        fill(controller, command, 0)
        controller.begun.clear()
        process = begin(command.split(), tmp_path)
        assert controller.begun.wait(DEADLINE_S)
        try:
            _, said = process.communicate(timeout=chance.uniform(0, 0.4))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=DEADLINE_S)
        assert process.returncode in {*ExitCode, -signal.SIGINT, SSH_FAILED}, (command, said)
        assert "internal error" not in said, (command, controller.received, said)
        assert "Traceback" not in said, (command, controller.received, said)
