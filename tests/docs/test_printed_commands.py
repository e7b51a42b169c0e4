"""Every command that the documentation shows or the program prints is one that the program takes.

The tests find the commands by themselves: in shell blocks, in code within sentences, and in literals of the source.
They parse the commands with the program's own parser, and run none: tests/lab/test_printed_commands.py runs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.printed.documents import PAGES, ROOT, inline_code, shell_lines
from tests.printed.elsewhere import ELSEWHERE, entry_for
from tests.printed.parse import berth_commands, make_files, parse_error
from tests.printed.runnable import runnable_commands
from tests.printed.situations import BY_PATH, BY_PATTERN, situation_of
from tests.printed.sources import commands_in, printed_commands

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, also the current folder, with the files that commands name."""
    make_files(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("BERTH_CONFIG", raising=False)
    monkeypatch.setenv("BERTH_CONFIG", "")  # so that `--config` of a command does not outlive the test
    monkeypatch.chdir(tmp_path)


def test_every_command_of_a_shell_block_is_taken() -> None:
    found = [(line.place, words) for page in PAGES for line in shell_lines(page) for words in berth_commands(line.text)]
    assert [
        f"{place}: berth {' '.join(words)}: {error}" for place, words in found if (error := parse_error(words))
    ] == []
    assert len(found) > 80
    assert {"batch.md", "first-session.md", "packages.md", "quickstart.md", "sessions.md", "stolen-key.md"} <= {
        place.rpartition("/")[2].partition(":")[0] for place, _ in found
    }


def test_every_command_in_a_sentence_exists_with_its_options() -> None:
    found = [
        (place, words)
        for page in PAGES
        for place, code in inline_code(page)
        if "berth " in code
        for words in berth_commands(code)
    ]
    assert [
        f"{place}: berth {' '.join(words)}: {error}"
        for place, words in found
        if (error := parse_error(words, complete=False))
    ] == []
    assert len(found) > 300


def test_every_command_that_the_program_prints_is_taken() -> None:
    """In messages and hints as they stand; in docstrings and help texts, a mention may lack arguments."""
    found = [(printed, words) for printed in printed_commands() for words in berth_commands(printed.text)]
    assert [
        f"{printed.place}: {printed.text}: {error}"
        for printed, words in found
        if (error := parse_error(words, complete=printed.complete))
    ] == []
    assert len([printed for printed, _ in found if printed.complete]) > 120
    places = {printed.place.partition(":")[0] for printed, _ in found}
    assert {"broker/text/advice.py", "broker/job/inside/sudo", "broker/cli/commands/start.py"} <= places
    assert {"broker/controller/sessions/lifecycle.py", "broker/volumes/probe.py"} <= places


@pytest.mark.parametrize(
    "line",
    [
        "berth strat dev",
        "berth show",
        "berth stop dev --att 18:00",
        "berth extend dev 4x",
        "berth start dev --mem=lots",
        "berth rollback dev",
        "berth delete --purge",
        "berth snapshots dev 2",
        "echo $(berth sho dev)",
        "ssh LOGIN berth ssh-config --vai login",
        "tar c . | berth exec --rot dev true",
    ],
)
def test_a_wrong_command_is_found(line: str) -> None:
    assert any(parse_error(words) for words in berth_commands(line))


@pytest.mark.parametrize(
    ("message", "commands"),
    [
        ("stop it: `berth stop dev`, or `berth gc`", ["berth stop dev", "berth gc"]),
        ("to undo: berth rollback dev 3", ["berth rollback dev 3"]),
        ("berth rollback dev 3", ["berth rollback dev 3"]),
        ("berth: dev is stopped", []),
        ("the berth registry rebuild is done", []),
    ],
)
def test_the_commands_of_a_message(message: str, commands: list[str]) -> None:
    assert list(commands_in(message)) == commands


def test_prompts_and_output_are_told_apart() -> None:
    tutorial = list(shell_lines(ROOT / "docs/tutorial/first-session.md"))
    assert ("login$", "berth list") in {(line.prompt, line.text) for line in tutorial}
    assert "precious" not in {line.text for line in tutorial}


def test_every_command_has_a_situation_or_a_reason_not_to_run() -> None:
    commands = runnable_commands()
    neither = [each for each in commands if entry_for(each) is None and situation_of(each) is None]
    assert [f"{each.place}: {each.text}" for each in neither] == []
    assert len(commands) > 200


def test_no_reason_and_no_situation_is_left_over() -> None:
    commands = runnable_commands()
    assert set(ELSEWHERE) - {entry_for(each) for each in commands} == set()
    rest = [each for each in commands if entry_for(each) is None]
    assert set(BY_PATH) - {each.path for each in rest if situation_of(each) is BY_PATH.get(each.path)} == set()
    used = {id(situation_of(each)) for each in rest}
    assert [pattern for pattern, situation in BY_PATTERN.items() if id(situation) not in used] == []
