"""Help, versions, aliases and suggestions: what users try first works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from broker import __version__, errors
from broker.cli.app import berth
from broker.cli.command_table import ALIASES, COMMANDS, GROUPS, HIDDEN, SUGGESTIONS
from broker.cli.context import Invocation
from broker.cli.suggestions import with_similar_session
from broker.errors import ExitCode, NotFoundError
from broker.schema.sessions import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import operation, posted, ready, view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.controller import ScriptedController


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions = {name: view(name) for name in ("dev", "training")}
        yield running


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_has_each_commands_own_name_and_summary(name: str) -> None:
    command = berth.get_command(click.Context(berth), name)
    assert command is not None
    assert (command.name, command.get_short_help_str(limit=200)) == (name, COMMANDS[name].summary)
    assert command.hidden == (name in HIDDEN)


def test_words_of_others_mean_commands() -> None:
    assert {*ALIASES.values(), *SUGGESTIONS.values()} <= COMMANDS.keys()
    assert not (ALIASES.keys() | SUGGESTIONS.keys()) & COMMANDS.keys()


def test_help_groups_the_commands_and_hides_the_services() -> None:
    out = run("--help").stdout
    assert [line[:-1] for line in out.splitlines() if line.endswith(":") and line[0] != " "] == ["Options", *GROUPS]
    assert all((f"\n  {name} " in out) == (name not in HIDDEN) for name in COMMANDS)


def test_every_way_to_ask_for_help() -> None:
    usual = run("--help").stdout
    for words in ((), ("-h",), ("help",)):
        result = run(*words)
        assert (result.exit_code, result.stdout) == (0, usual), (words, result.stderr)
    assert run("help", "profile", "build").stdout == run("profile", "build", "--help").stdout
    assert run("profile", "build", "-h").stdout == run("profile", "build", "--help").stdout
    assert run("profile").stdout == run("profile", "--help").stdout
    assert run("profile").exit_code == 0
    assert run("rm", "--help").stdout.startswith("Usage: berth delete ")
    assert run("help", "rm").stdout == run("rm", "-h").stdout


@pytest.mark.parametrize(
    ("words", "says"), [(("help", "lsit"), "did you mean 'list'?"), (("help", "list", "x"), "below")]
)
def test_help_of_what_is_no_command(words: tuple[str, ...], says: str) -> None:
    result = run(*words)
    assert result.exit_code == ExitCode.USAGE
    assert says in result.stderr


def test_the_version_as_a_command() -> None:
    assert run("version").stdout == f"berth {__version__}\n"
    assert json.loads(run("version", "--json").stdout) == {"version": __version__}


@pytest.mark.parametrize(
    ("word", "meant"),
    [("lsit", "list"), ("strat", "start"), ("create", "start"), ("remove", "delete"), ("snapshto", "snapshot")],
)
def test_a_mistyped_command_gets_a_suggestion(word: str, meant: str) -> None:
    result = run(word)
    assert result.exit_code == ExitCode.USAGE
    assert f"no such command '{word}'; did you mean '{meant}'?" in result.stderr


def test_a_word_without_a_likeness_gets_no_suggestion() -> None:
    assert "did you mean" not in run("xyzzy").stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [(("show", "dve"), "dev"), (("rollback", "trainign", "1", "--yes"), "training"), (("show", "other"), None)],
)
def test_a_mistyped_session_gets_a_suggestion(
    controller: ScriptedController, words: tuple[str, ...], hint: str | None
) -> None:
    assert controller.sessions
    result = run(*words)
    assert result.exit_code == ExitCode.NOT_FOUND
    assert (f"did you mean {hint}?" in result.stderr) == (hint is not None)


def test_suggestion_keeps_the_way_to_a_new_session(controller: ScriptedController) -> None:
    hint = "`berth start dev2 --profile PROFILE` makes one"
    missing = errors.NotFoundError("you have no session named dev2", hint=hint)
    controller.failures["POST /v1/sessions/dev2/start"] = missing
    assert f"  hint: did you mean dev? {hint}\n" in run("start", "dev2").stderr


def test_an_error_about_something_else_keeps_its_hint(controller: ScriptedController) -> None:
    """The new name of a clone is similar to a session's, and need not exist."""
    assert controller.sessions
    error = NotFoundError("profile base has no version 9", hint="there is: 1")
    invocation = Invocation()
    invocation.names = ["dev", "trainin"]
    assert with_similar_session(error, invocation) is error


def test_aliases(controller: ScriptedController) -> None:
    assert run("ls").stdout == run("ps").stdout == run("list").stdout
    assert run("status", "dev").stdout == run("show", "dev").stdout
    controller.script["dev"].append(None)
    controller.answers["DELETE /v1/sessions/dev"] = view("dev")
    assert run("rm", "dev", "--yes").exit_code == 0
    assert controller.asked[-2][:2] == ("DELETE", "/v1/sessions/dev")


@pytest.mark.parametrize("words", [("open", "dev"), ("completion",)])
def test_a_missing_choice_is_one_line(controller: ScriptedController, words: tuple[str, ...]) -> None:
    assert controller.sessions
    message = run(*words).stderr.splitlines()[0]
    assert "; choose from: " in message
    assert "\\" not in message
    assert "\t" not in message


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--env", "dev", "--help"]])
def test_help_of_sbatch_is_berths_then_sbatchs(
    controller: ScriptedController, tmp_path: Path, words: list[str]
) -> None:
    assert controller.sessions
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text('#!/bin/sh\necho "help of sbatch: $1"\n')
    sbatch.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "broker.cli", "sbatch", *words],
        env=os.environ | {"PATH": f"{sbatch.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert done.stdout.startswith("Usage: berth sbatch ")
    assert "--env" in done.stdout
    assert done.stdout.endswith(f"\nhelp of sbatch: {words[-1]}\n")
    assert controller.asked == []


def test_several_sessions_are_stopped_together(controller: ScriptedController) -> None:
    controller.sessions = {name: ready(name) for name in ("a", "b")}
    for name in ("a", "b"):
        controller.script[name].extend([view(name, "stopping"), view(name)])  # type: ignore[arg-type]
    result = run("stop", "a", "b", "a")
    assert result.exit_code == 0
    assert result.stderr.endswith("a is stopped; its files are kept\nb is stopped; its files are kept\n")
    asked = [path for method, path, _ in controller.asked if method == "POST"]
    assert asked == ["/v1/sessions/a/stop", "/v1/sessions/b/stop"]


def test_one_failure_of_several_does_not_stop_the_others(controller: ScriptedController) -> None:
    controller.script["dev"].append(view("dev"))
    result = run("stop", "nosuch", "dev")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert result.stderr.splitlines()[0] == "berth: nosuch: you have no session named nosuch"
    assert "dev is stopped; its files are kept\n" in result.stderr
    assert "berth: 1 of 2 sessions failed\n" in result.stderr


def test_all_selects_the_sessions_in_the_right_state(controller: ScriptedController) -> None:
    controller.sessions["running"] = ready("running")
    controller.script["running"].append(view("running"))
    assert json.loads(run("stop", "--all", "--json").stdout)["name"] == "running"
    assert run("stop", "--all").exit_code == 0  # nothing runs
    refused = run("delete", "--all")
    assert refused.exit_code == ExitCode.USAGE
    assert "dev, training, running were not deleted: there is no terminal to ask at" in refused.stderr
    result = run("delete", "--all", "--yes", "--no-wait", "--json")
    assert [each["deleted"] for each in json.loads(result.stdout)["sessions"]] == ["dev", "training", "running"]


@pytest.mark.parametrize("command", ["start", "stop", "delete", "restart"])
def test_names_or_all(controller: ScriptedController, command: str) -> None:
    assert "name is missing" in run(command).stderr
    assert "NAME and --all exclude each other" in run(command, "dev", "--all").stderr
    assert controller.asked == []


def test_several_sessions_are_started_with_the_same_options(controller: ScriptedController) -> None:
    for name in ("dev", "training"):
        controller.script[name].append(ready(name))
    result = run("start", "dev", "training", "-t", "4h", "--mem", "1.5G")
    assert result.stdout == "berth ssh dev\nberth ssh training\n"
    sent = [body["options"] for method, _, body in controller.asked if method == "POST"]
    assert sent == [["--time=4:00:00", "--mem=1536M"]] * 2


def test_restart_stops_and_starts_with_the_same_options(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready()
    controller.script["dev"].extend([view("dev", SessionState.STOPPING, operation=operation("restart")), ready()])
    result = run("restart", "dev")
    assert result.stdout == "berth ssh dev\n"
    assert posted(controller) == [("/v1/sessions/dev/restart", None)]


def test_restart_of_a_stopped_session_starts_it(controller: ScriptedController) -> None:
    controller.script["dev"].extend([view("dev", SessionState.SUBMITTING), ready()])
    assert run("restart", "dev").stdout == "berth ssh dev\n"
    assert posted(controller) == [("/v1/sessions/dev/start", {})]


def test_restart_stops_no_session_that_could_not_be_started_again(controller: ScriptedController) -> None:
    controller.sessions |= {"dev": ready(), "two": ready("two")}
    controller.script["two"].extend([ready("two")])
    missing = errors.RefusedError("the image base@1 is not available")
    controller.failures["POST /v1/sessions/dev/check"] = missing
    result = run("restart", "dev", "two")
    assert (result.exit_code, result.stdout) == (4, "berth ssh two\n")
    assert "berth: dev: the image base@1 is not available" in result.stderr
    assert [path for path, _ in posted(controller)] == ["/v1/sessions/two/restart"]
