"""`python -m tui`: the choice of the mode, and the end after a fault."""

from __future__ import annotations

import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from broker.config.environment import inherited_environment
from broker.errors import ExitCode
from tests.deadlines import DEADLINE_S
from tui import __main__ as program
from tui import failure_log

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "berth" / "tui.log"


def fail() -> str:
    raise RuntimeError("the cells are gone")


def test_fault_goes_to_the_log_and_one_line_to_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], state: Path
) -> None:
    monkeypatch.setattr(program, "_run_screens", fail)
    assert program.main([]) == ExitCode.FAILED
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == (
        "berth: internal error: RuntimeError: the cells are gone\n"
        f"  hint: please report it with the traceback in {state}\n"
    )
    assert "Traceback" in state.read_text()
    assert stat.S_IMODE(state.stat().st_mode) == 0o600


def test_log_has_a_limit(state: Path) -> None:
    for text in ("first", "second"):
        failure_log.log_failure(text)
    assert "first" in state.read_text()
    state.write_text("x" * (failure_log.LIMIT_BYTES + 1))
    failure_log.log_failure("third")
    assert state.stat().st_size < 100


def test_log_that_cannot_be_written_is_named(state: Path) -> None:
    state.parent.touch()
    assert "could not be written" in failure_log.log_failure("text")


@pytest.mark.parametrize(
    ("arguments", "term", "plain"),
    [(["--plain"], "xterm", True), ([], "dumb", True), ([], "", True), ([], "xterm", False), ([], "linux", False)],
)
def test_plain_mode_is_chosen(monkeypatch: pytest.MonkeyPatch, arguments: list[str], term: str, plain: bool) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(program, "_run_plain" if plain else "_run_screens", lambda: "")
    monkeypatch.setattr(program, "_run_screens" if plain else "_run_plain", fail)
    assert program.main(arguments) == ExitCode.OK


def test_without_a_terminal_the_plain_mode_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main([])
    assert ended.value.code == ExitCode.USAGE
    assert "berth tui --plain" in capsys.readouterr().err


def test_inherited_environment_is_that_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTH_SET_LATER", "1")
    environment = inherited_environment()
    assert "BERTH_SET_LATER" not in environment
    assert environment["PATH"]


@pytest.mark.parametrize("daemon", [False, True], ids=["thread that Python waits for", "daemon thread"])
def test_process_ends_although_a_thread_does_not(daemon: bool) -> None:
    code = f"""
import threading
from tui.__main__ import exit_process

threading.Thread(target=threading.Event().wait, daemon={daemon}).start()
print("shown", flush=True)
exit_process(3)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "shown\n", "")
