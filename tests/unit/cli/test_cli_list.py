"""`berth list` fits the terminal, selects sessions, and shows when they will be stopped."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING

import pytest

from broker.cli import output
from broker.cli.commands.list import STATES
from broker.cli.output import shorten
from broker.cli.progress import ProgressLine
from broker.errors import ExitCode
from broker.format import format_time
from broker.schema.sessions import SessionState
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import plain, ready, view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.controller import ScriptedController

REASON = "ReqNodeNotAvail, UnavailableNodes: c[1-40] are down, drained, or reserved for jobs of higher priority"


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions = {
            "dev": ready(options=["--mem=4G"], ends_at=time.time() + 7300),
            "waiting": view("waiting", SessionState.QUEUED, job_id=8, reason=REASON),
            "old": view("old"),
        }
        yield running


@pytest.mark.parametrize(
    ("stores", "path", "shown"),
    [
        (["/profiles", "/more"], "/more/base/1/image.sif", "site/base@1"),
        (["/profiles"], "/shared/berth/alice/profiles/base/1/image.sif", "own/base@1"),
        ([], "/home/alice/profiles/base/1/image.sif", "base@1"),
    ],
)
def test_the_owner_of_the_profile_is_shown(
    controller: ScriptedController, stores: list[str], path: str, shown: str
) -> None:
    controller.sessions = {"dev": ready(image=path)}
    controller.site = controller.site.model_copy(update={"profile_stores": stores})
    assert run("list", "-o", "wide").stdout.splitlines()[1].split()[2] == shown
    assert f"\n  profile    {shown} (" in run("show", "dev").stdout
    assert run("list").stdout.splitlines()[1].split()[2] == "base@1"


@pytest.mark.parametrize("width", [20, 60, 80, 120])
def test_the_table_fits_the_terminal(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    assert controller.sessions
    monkeypatch.setenv("COLUMNS", str(width))
    assert any(len(line) > width for line in run("list").stdout.splitlines())  # a pipe gets everything
    assert REASON in run("list").stdout
    monkeypatch.setattr(output, "is_terminal", lambda _: True)
    lines = run("list").stdout.splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" in lines[2]
    assert REASON in run("list", "-o", "wide").stdout
    if width >= 80:
        assert lines[0].split() == ["NAME", "STATE", "PROFILE", "NODE/REASON", "JOB", "GPU", "TIME", "LEFT"]
        assert lines[1].split()[3:] == ["c2", "7", "2", "h", "1", "min"]
        assert lines[2].split()[-1] == "8"


def test_states_and_names(controller: ScriptedController) -> None:
    assert controller.sessions

    def names(*words: str) -> list[str]:
        return run("list", "-o", "name", *words).stdout.split()

    assert names() == ["dev", "waiting", "old"]
    assert names("--state", "ready,QUEUED") == ["dev", "waiting"]
    assert names("old", "dev") == ["dev", "old"]
    assert names("old", "dev", "--state", "stopped") == ["old"]
    assert "no sessions in these states" in run("list", "--state", "failed").stderr
    listed = json.loads(run("list", "--state", "ready", "-o", "json").stdout)
    assert listed == json.loads(run("list", "dev", "--json").stdout)


def test_wrong_states_and_names(controller: ScriptedController) -> None:
    wrong = run("list", "--state", "running")
    assert wrong.exit_code == ExitCode.USAGE
    assert "'running' is not a state; the states are submitting, queued" in wrong.stderr
    assert run("list", "--deleted", "dev").exit_code == ExitCode.USAGE
    assert controller.asked == []
    missing = run("list", "dve")
    assert missing.exit_code == ExitCode.NOT_FOUND
    assert "did you mean dev?" in missing.stderr


def test_the_states_are_those_of_the_schema() -> None:
    assert set(STATES) == set(SessionState)


def test_the_time_of_a_stop_is_shown(controller: ScriptedController) -> None:
    assert "STOPS" not in run("list").stdout
    at = time.time() + 60
    shown = format_time(at)
    controller.sessions["dev"] = ready(stop_at=at)
    heading, first, *_ = run("list").stdout.splitlines()
    assert heading.endswith("  STOPS")
    assert first.endswith(f"  at {shown}")
    controller.sessions["dev"] = ready(stop_at=at, stays=True)
    assert run("list").stdout.splitlines()[1].endswith(f"  until {shown}")
    controller.sessions["dev"] = view("dev", stop_at=at)
    assert "STOPS" not in run("list").stdout


def test_wide_shows_options_and_id(controller: ScriptedController) -> None:
    assert controller.sessions
    heading, first, *_ = run("list", "-o", "wide").stdout.splitlines()
    assert heading.split()[-3:] == ["SINCE", "OPTIONS", "ID"]
    assert first.split()[-2:] == ["--mem=4G", "01dev"]


def test_progress_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", stream)
    ProgressLine().show(f"dev: queued: {REASON}, expected to start 12:30")
    shown = plain(stream.getvalue())
    assert len(shown) == 69
    assert shown.startswith("dev: queued: ReqNodeNotAvail")
    assert shown.endswith("…, expected to start 12:30")


@pytest.mark.parametrize(
    ("text", "width", "tail", "shown"),
    [
        ("short", 5, "", "short"),
        ("longer", 5, "", "long…"),
        ("a long one, end", 12, ", end", "a long…, end"),
        ("a long one, end", 6, ", end", "a lon…"),
        ("text", 0, "", "…"),
    ],
)
def test_shorten(text: str, width: int, tail: str, shown: str) -> None:
    assert shorten(text, width, tail=tail) == shown
