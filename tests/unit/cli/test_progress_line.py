"""Progress of long work: a line that a thread keeps up to date, with the amounts that the work reports."""

from __future__ import annotations

import io
import os
import pwd
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.cli import progress
from broker.cli.amounts import OwnAmounts, WorkAmounts, describe_amounts
from broker.cli.context import Invocation
from broker.cli.progress import ProgressLine
from broker.client.client import Client
from broker.errors import ExitCode
from broker.schema.environments import EnvironmentView
from broker.schema.volumes import DiffReport, GcReport, SizeReport, VerifyReport
from broker.volumes.progress import progress_path
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, operation, plain, view
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

REPORT = f"3400 {2**30} {2 * 2**30} "


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """The text on stderr; the time between two updates is short."""
    monkeypatch.setattr(progress, "TERMINAL_STEP_S", 0.01)
    monkeypatch.setattr(progress, "PLAIN_STEP_S", 0.01)
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.StringIO()
    monkeypatch.setattr(progress, "write", lambda text, *, err: stream.write(text) if err else None)
    return stream


@pytest.fixture
def storage(controller: ScriptedController, tmp_path: Path) -> Path:
    """The user's storage, in which the session dev is worked on."""
    controller.sessions["dev"] = view()
    root = tmp_path / "storage" / pwd.getpwuid(os.getuid()).pw_name
    with (tmp_path / "config.yaml").open("a", encoding="utf-8") as config:
        config.write(f"storage:\n  root: {tmp_path}/storage/{{user}}\n")
    path = Path(progress_path(root, "01dev"))
    path.parent.mkdir(parents=True)
    path.write_text(f"{REPORT}{time.time():.0f}\n")
    return root


def test_terminal_shows_amounts_and_time(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_terminal", lambda _: True)
    amounts = OwnAmounts()
    with ProgressLine("dev: taking a snapshot", amounts=amounts):
        amounts.add(2**30)
        wait_for(lambda: "dev: taking a snapshot, 1.0 GiB, 1 file, 0 s" in plain(stream.getvalue()), what="the line")
    shown = stream.getvalue()
    assert shown.startswith("\rdev: taking a snapshot\x1b[K")
    assert shown.endswith("\r\x1b[K")


def test_without_terminal_lines_come_after_some_time(stream: io.StringIO) -> None:
    with ProgressLine("dev: comparing", amounts=lambda: "5 files") as line:
        wait_for(lambda: stream.getvalue().startswith("dev: comparing, 5 files, 0 s\n"), what="the line")
        wait_for(lambda: line.lasted is not None, what="the line")


def test_new_text_keeps_its_amounts(stream: io.StringIO) -> None:
    with ProgressLine(amounts=lambda: "5 files") as line:
        line.show("dev: stopping")
        wait_for(lambda: stream.getvalue().endswith("dev: stopping, 5 files, 0 s\n"), what="the line")
        line.show("dev: stopping")
        line.show("dev: changing")
        wait_for(lambda: stream.getvalue().endswith("dev: changing, 5 files, 0 s\n"), what="the line")
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if "," not in line] == ["dev: stopping", "dev: changing"]


def test_quiet_line_says_nothing(stream: io.StringIO) -> None:
    before = set(threading.enumerate())  # with those of earlier tests that have not ended yet
    with ProgressLine("text", quiet=True, amounts=lambda: "5 files") as line:
        line.show("more")
        assert line.lasted is None
        new = set(threading.enumerate()) - before
        assert not [thread for thread in new if thread.name.endswith("(_follow)")]
    assert not stream.getvalue()


def test_nothing_is_written_after_the_end(stream: io.StringIO) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        assert go.wait(DEADLINE_S)
        return "late"

    with ProgressLine("text", amounts=slow):
        assert begun.wait(DEADLINE_S)
    go.set()
    for thread in threading.enumerate():
        if thread.name.endswith("(_follow)"):
            thread.join(DEADLINE_S)
    assert "late" not in stream.getvalue()


def test_amounts_are_read_from_the_users_storage(storage: Path) -> None:
    amounts = WorkAmounts(Invocation(), "dev")
    assert amounts() == "1.0 GiB of 2.0 GiB, 3400 files"
    assert amounts.total_bytes == 2 * 2**30
    Path(progress_path(storage, "01dev")).unlink()
    assert amounts() == ""
    Path(progress_path(storage, "01dev")).symlink_to("/etc/passwd")
    assert amounts() == ""
    assert WorkAmounts(Invocation(), "nosuch")() == ""


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((0, 0, 0), ""), ((1, 0, 0), "1 file"), ((2, 5, 4), "5 B, 2 files"), ((0, 2**20, 2**21), "1.0 MiB of 2.0 MiB")],
)
def test_describe_amounts(numbers: tuple[int, int, int], text: str) -> None:
    assert describe_amounts(*numbers) == text


CALLS = {
    "diff": ("diff", DiffReport(base="base@1", packages=[], files=[], truncated=False, content=False)),
    "size": ("size", SizeReport(lines=[], bytes=0, free=0)),
    "verify": ("verify", VerifyReport(layers=1, recorded=0, problems=[])),
    "gc": ("gc", GcReport(sessions=[], layers=0, bytes=0, dry_run=False)),
}


def gated(monkeypatch: pytest.MonkeyPatch, result: object) -> Callable[..., object]:
    """A call of the client that ends when its progress was shown."""
    shown = threading.Event()
    real = WorkAmounts.__call__

    def call(self: WorkAmounts) -> str:
        text = real(self)
        if self.__dict__.setdefault("asked", False):
            shown.set()
        self.__dict__["asked"] = True
        return text

    monkeypatch.setattr(WorkAmounts, "__call__", call)
    monkeypatch.setattr(progress, "PLAIN_STEP_S", 0.01)

    def answer(*_: object, **__: object) -> object:
        shown.clear()  # an earlier call has set it
        assert shown.wait(DEADLINE_S)
        return result

    return answer


@pytest.mark.parametrize("command", CALLS)
def test_long_calls_show_amounts(storage: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    Path(progress_path(storage, "gc")).write_text(f"{REPORT}{time.time():.0f}\n")
    method, result = CALLS[command]
    monkeypatch.setattr(Client, method, gated(monkeypatch, result))
    done = run(command, *(["dev"] if command != "gc" else []))
    assert done.exit_code == 0, done.output
    assert ", 1.0 GiB of 2.0 GiB, 3400 files, 0 s\n" in done.stderr


@pytest.mark.parametrize("command", CALLS)
def test_interrupted_call_says_what_continues(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    controller.sessions["dev"] = view()
    monkeypatch.setattr(Client, CALLS[command][0], interrupted)
    done = run(command, *(["dev"] if command != "gc" else []))
    assert done.exit_code == ExitCode.INTERRUPTED
    assert "continues in the background, without a result here" in done.stderr


def test_clone_shows_the_work_on_its_source(
    controller: ScriptedController, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of the source are copied, and its report is shown."""
    assert storage.exists()
    controller.script["new"] += [view("new", operation=operation("clone"))]
    done = view("new", operation=operation("clone", "done"))
    monkeypatch.setattr(Client, "session", gated(monkeypatch, done))
    result = run("clone", "dev", "new")
    assert result.exit_code == 0, result.output
    assert "1.0 GiB of 2.0 GiB, 3400 files" in result.stderr


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A batch script, and a sbatch that takes it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sbatch").write_text("#!/bin/sh\ncat >/dev/null\necho Submitted batch job 42\n")
    (tmp_path / "bin/sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    return script


def test_sbatch_shows_the_copy_and_a_summary(
    storage: Path, tmp_path: Path, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage.exists()
    (tmp_path / "environment/run").mkdir(parents=True)
    made = EnvironmentView(
        id="01e",
        of="dev",
        profile="base",
        version="1",
        directory=str(tmp_path / "environment"),
        created_at=CREATED,
        used_at=CREATED,
    )
    monkeypatch.setattr(Client, "make_environment", gated(monkeypatch, made))
    done = run("sbatch", "--env", "dev", str(job))
    assert done.exit_code == 0, done.output
    assert done.stdout == "Submitted batch job 42\n"
    assert "berth: making the environment of dev, 1.0 GiB of 2.0 GiB, 3400 files, 0 s\n" in done.stderr
    assert "berth: made the environment of dev from 2.0 GiB of changed files in 0 s\n" in done.stderr


def test_interrupted_sbatch_says_that_no_job_was_submitted(
    controller: ScriptedController, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    assert controller
    monkeypatch.setattr(Client, "make_environment", interrupted)
    done = run("sbatch", "--env", "dev", str(job))
    assert (done.exit_code, done.stdout) == (ExitCode.INTERRUPTED, "")
    assert done.stderr == "berth: interrupted; no job was submitted, and Berth removes the environment of dev\n"
