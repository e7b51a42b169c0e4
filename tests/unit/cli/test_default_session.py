"""`berth ssh` and `berth exec --` without a session's name: which session they take, and when they ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import click
import pytest

from broker.schema.sessions import SessionState
from tests.fakes.command_line import run
from tests.fakes.controller import CREATED, ScriptedController, ready, view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.cli.context import Invocation
    from broker.schema.sessions import SessionView


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The sessions for which ssh would run, and the words for it."""
    found: list[tuple[str, list[str]]] = []

    def become(_: Invocation, name: str, *, before: Sequence[str], after: Sequence[str]) -> NoReturn:
        found.append((name, [*before, *after]))
        raise click.exceptions.Exit(0)

    monkeypatch.setattr("broker.cli.commands.ssh._become_ssh", become)
    return found


def have(controller: ScriptedController, *views: SessionView) -> None:
    controller.sessions = {each.name: each for each in views}


@pytest.mark.parametrize("state", [SessionState.STOPPED, SessionState.READY])
def test_the_only_session_is_taken(
    controller: ScriptedController, taken: list[tuple[str, list[str]]], state: SessionState
) -> None:
    have(controller, view("thesis", state))
    result = run("ssh")
    assert (taken, result.stderr) == ([("thesis", [])], "")


def test_the_only_session_with_a_job_is_taken_and_named(
    controller: ScriptedController, taken: list[tuple[str, list[str]]]
) -> None:
    have(controller, view("dev"), ready("thesis"), view("old"))
    result = run("ssh")
    assert (taken, result.stderr) == ([("thesis", [])], "berth: thesis, your only session with a job\n")


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (("exec", "--", "make", "-j8"), ["-T", "--", "make -j8"]),
        (("exec", "-t", "--", "top"), ["-t", "--", "top"]),
        (("exec", "thesis", "--", "make"), ["-T", "--", "make"]),
        (("exec", "thesis", "make", "--", "x"), ["-T", "--", "make -- x"]),
        (("exec", "--", "sh", "-c", "a b"), ["-T", "--", "sh -c 'a b'"]),
    ],
)
def test_exec_without_a_name(
    controller: ScriptedController, taken: list[tuple[str, list[str]]], words: tuple[str, ...], after: list[str]
) -> None:
    have(controller, ready("thesis"))
    assert run(*words).stderr == ""
    assert taken == [("thesis", after)]


@pytest.mark.parametrize("words", [("exec",), ("exec", "--"), ("exec", "-t"), ("exec", "--", "-j8")])
def test_exec_without_a_command(
    controller: ScriptedController, taken: list[tuple[str, list[str]]], words: tuple[str, ...]
) -> None:
    have(controller, ready("thesis"))
    assert run(*words).exit_code == 2
    assert (taken, controller.asked) == ([], [])


def test_several_sessions_without_a_terminal_are_listed(
    controller: ScriptedController, taken: list[tuple[str, list[str]]]
) -> None:
    have(controller, ready("dev", used_at=CREATED), ready("thesis", used_at=CREATED + 9), view("old"))
    result = run("ssh")
    assert (taken, result.exit_code) == ([], 2)
    assert result.stderr.splitlines() == [
        "berth: the session's name is missing",
        "  hint: name one of your sessions: thesis, dev, old",
    ]


@pytest.mark.parametrize(("answer", "name"), [("", "thesis"), ("2", "dev"), ("old", "old"), ("9\n3", "old")])
def test_several_sessions_at_a_terminal_are_asked_for(
    controller: ScriptedController,
    taken: list[tuple[str, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    name: str,
) -> None:
    have(controller, ready("dev", used_at=CREATED), ready("thesis", used_at=CREATED + 9), view("old"))
    monkeypatch.setattr("broker.cli.output.is_terminal", lambda _: True)
    result = run("ssh", input=answer + "\n")
    assert [each for each, _ in taken] == [name], result.stderr
    assert "  1  thesis  ready, base@1\n" in result.stderr


def test_without_any_session(controller: ScriptedController, taken: list[tuple[str, list[str]]]) -> None:
    have(controller)
    result = run("ssh")
    assert (taken, result.exit_code) == ([], 3)
    assert "`berth start NAME --profile PROFILE` creates one" in result.stderr
