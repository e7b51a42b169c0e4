"""`berth --help` and `berth list` without click say what they say with it, and leave the rest to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from broker import errors
from broker.cli import overview
from broker.cli.app import berth
from broker.cli.command_table import GROUPS
from broker.cli.overview import overview as page
from broker.errors import ExitCode
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ready, view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.controller import ScriptedController


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions = {"dev": ready(), "old": view("old")}
        yield running


def in_process(
    *words: str, stdout: int = subprocess.PIPE, without_click: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the entry point. `without_click`: click cannot be imported."""
    code = "import sys; from broker.cli import main; main()"
    blocked = "import sys; sys.modules['click'] = None; " if without_click else ""
    return subprocess.run(
        [sys.executable, "-c", blocked + code, *words],
        env=os.environ | variables,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.mark.parametrize("width", range(50, 79))
def test_the_page_of_all_commands_is_as_click_would_write_it(width: int) -> None:
    context = click.Context(berth, info_name="berth", **berth.context_settings)
    formatter = click.HelpFormatter(width=width)
    formatter.write_usage("berth", "[OPTIONS] COMMAND [ARGS]...")
    with formatter.indentation():
        formatter.write_paragraph()
        formatter.write_text(overview.DESCRIPTION)
    with formatter.section("Options"):
        formatter.write_dl([each for param in berth.get_params(context) if (each := param.get_help_record(context))])
    column = max(len(name) for group in GROUPS.values() for name in group)
    for title, group in GROUPS.items():
        with formatter.section(title):
            formatter.write_dl([(name.ljust(column), entry.summary) for name, entry in group.items()])
    assert page(width) == formatter.getvalue()


@pytest.mark.parametrize("columns", ["20", "60", "80", "400", "0", "wide"])
@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_without_click(word: str, columns: str) -> None:
    done = in_process(word, COLUMNS=columns)
    with_click = in_process("--json", "--help", without_click=False, COLUMNS=columns)
    assert (done.returncode, done.stdout, done.stderr) == (0, with_click.stdout, "")


@pytest.mark.parametrize("word", ["list", "ls", "ps"])
def test_list_without_click(controller: ScriptedController, word: str) -> None:
    expected = run("list").stdout
    controller.asked.clear()
    done = in_process(word)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, "")
    assert [path for _, path, _ in controller.asked] == ["/v1/sessions"]


def test_list_leaves_what_is_unusual_to_click(controller: ScriptedController) -> None:
    controller.sessions = {"dev": view("dev", stale_since=1e9)}
    unusual = [in_process("list", without_click=False)]
    expected = [run("list")]
    controller.sessions = {}
    unusual.append(in_process("list", without_click=False))
    expected.append(run("list"))
    controller.failures["GET /v1/sessions"] = errors.RefusedError("said")
    unusual.append(in_process("list", without_click=False))
    expected.append(run("list"))
    assert [(done.returncode, done.stdout, done.stderr) for done in unusual] == [
        (result.exit_code, result.stdout, result.stderr) for result in expected
    ]
    assert unusual[-1].returncode == ExitCode.REFUSED


@pytest.mark.parametrize("word", ["--help", "list"])
def test_a_full_disk_is_reported(controller: ScriptedController, word: str) -> None:
    assert controller.sessions
    with Path("/dev/full").open("w") as full:
        done = in_process(word, stdout=full.fileno(), without_click=False)
    assert done.returncode == ExitCode.FAILED
    assert done.stderr.startswith("berth: cannot write the result: ")


def test_a_terminal_without_the_characters(controller: ScriptedController) -> None:
    controller.sessions = {"dev": view("dev", reason="ünïcödé …")}
    done = in_process("list", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "\\xfcn\\xefc\\xf6d\\xe9 ..." in done.stdout
