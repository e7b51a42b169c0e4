"""The menu of lines, for screen readers: numbers, words, and command lines."""

from __future__ import annotations

import io
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import pytest

from broker.errors import ControllerUnavailableError
from tests.fakes.tui_feed import NOW, make_view
from tui.core.actions import ACTIONS, find_action
from tui.core.plain_menu import HELP, PlainMenu
from tui.core.site_facts import SiteFacts
from tui.plain import PlainMode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.sessions import SessionView


class StopAt(NamedTuple):
    """An action whose command line has a word that only the user knows."""

    id: str = "stop-at"
    key: str = "X"
    title: str = "stop at a time"
    group: str = "Job"

    def refusal(self, session: SessionView | None) -> str | None:
        return "choose a session first" if session is None else None

    def command(self, session: SessionView | None) -> Sequence[str]:
        assert session is not None
        return ["berth", "stop", session.name, "--at", "TIME"]


@pytest.fixture
def menu() -> PlainMenu:
    menu = PlainMenu((find_action("extend"), find_action("ssh"), StopAt()))
    menu.take([make_view("dev"), make_view("old", "stopped"), make_view("new", "queued")], SiteFacts())
    return menu


def test_listing_numbers_the_sessions(menu: PlainMenu) -> None:
    assert menu.list_sessions(NOW) == [
        "berth  3 sessions | 1 ready, 1 queued, 1 stopped",
        "1. dev: ready on gpu01",
        "2. new: queued",
        "3. old: stopped",
    ]


def test_number_gives_details_and_possible_actions(menu: PlainMenu) -> None:
    lines = menu.answer("1", NOW).lines
    assert lines[0] == "Session dev"
    assert "address: gpu01 port 20001" in lines
    assert lines[-2:] == ["1 ssh: log in with ssh, and return", "1 stop-at: stop at a time"]
    assert menu.answer("3", NOW).lines[-1] == "3 stop-at: stop at a time"


def test_actions_without_a_session_are_in_the_help_and_not_with_each_session() -> None:
    menu = PlainMenu(ACTIONS)
    menu.take([make_view("dev"), make_view("old", "stopped")], SiteFacts())
    general = {f"{action.id}: {action.title}" for action in ACTIONS if not action.needs_session}
    assert "new: start a new session" in general
    assert set(menu.answer("h", NOW).lines) - set(HELP) == {"Type one of these alone:", *general}
    for number in ("1", "2"):
        lines = menu.answer(number, NOW).lines
        listed = {line.removeprefix(f"{number} ") for line in lines[list(lines).index("Actions:") + 1 :]}
        assert listed
        assert not listed & general
    assert menu.answer("cluster", NOW).command == ["berth", "cluster"]


def test_number_and_action_give_a_command(menu: PlainMenu) -> None:
    assert menu.answer("1 ssh", NOW).command == ["berth", "ssh", "dev"]
    assert menu.answer(" 1 s ", NOW).command == ["berth", "ssh", "dev"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("3 extend", "it is stopped; no job runs"),
        ("4", "There is no session 4"),
        ("0", "There is no session 0"),
        ("1 fly", "'fly' is not an action"),
        ("fly", "'fly' is not an action"),
        ("²", "is not an action"),
        ("\x1b[A", "is not an action"),
        ("ssh", "choose a session first"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(menu: PlainMenu, line: str, says: str) -> None:
    reply = menu.answer(line, NOW)
    assert not reply.command
    assert says in reply.lines[0]


def test_filter_changes_the_numbers(menu: PlainMenu) -> None:
    assert menu.answer("/queued", NOW).lines[1:] == ["1. new: queued"]
    assert menu.answer("/zzz", NOW).lines[-1] == "No session contains this text. Type / to list all."
    assert len(menu.answer("/", NOW).lines) == 4


def test_fixed_words(menu: PlainMenu) -> None:
    assert menu.answer("q", NOW).quit
    assert menu.answer("r", NOW).refresh
    assert menu.answer("h", NOW).lines == HELP


class LostClient:
    """A controller that answers once."""

    def __init__(self) -> None:
        self.calls = 0

    def sessions(self) -> list[SessionView]:
        self.calls += 1
        if self.calls > 1:
            raise ControllerUnavailableError("the controller does not answer", hint="`berth doctor` shows the cause")
        return [make_view("dév")]

    def read_site(self) -> SimpleNamespace:
        return SimpleNamespace(domain="berth", profile_stores=[])


def run_plain(monkeypatch: pytest.MonkeyPatch, typed: str, encoding: str = "utf-8") -> tuple[str, list[list[str]]]:
    """Type lines; return what is printed, and the commands that were run."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    client: object = LostClient()
    output = io.BytesIO()
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    PlainMode(lambda: client, (find_action("ssh"), StopAt())).run()  # type: ignore[arg-type, return-value]
    sys.stdout.flush()
    return output.getvalue().decode(encoding), commands


def test_words_in_capitals_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text, commands = run_plain(monkeypatch, "1 stop-at\n18:00\n1 stop-at\n\nq\n")
    assert [command[4:] for command in commands] == [["stop", "dév", "--at", "18:00"]]
    assert "$ berth stop 'dév' --at 18:00" in text
    assert "Nothing was done." in text


def test_lost_controller_leaves_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = run_plain(monkeypatch, "r\n")
    assert "the controller does not answer.\nHint: `berth doctor` shows the cause.\nThis is the list as of" in text
    assert text.count("1. dév: ready") == 2


def test_plain_mode_sends_no_control_character(monkeypatch: pytest.MonkeyPatch) -> None:
    text, _ = run_plain(monkeypatch, "1\nh\nfly\x1b[2J\n", encoding="ascii")
    assert text.replace("\n", "").isprintable()
    assert "d\\xe9v" in text
