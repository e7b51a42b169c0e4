"""Every command that takes a session of another user, and the permission that the controller asks for it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import click
import pytest

from broker.cli.command_table import COMMANDS
from broker.cli.params import SessionName
from broker.cli.resources import NameOrResource
from broker.controller.sessions.access import OPERATOR_PERMISSIONS, ROLE_PERMISSIONS
from broker.errors import BerthError, RefusedError
from broker.schema.permissions import Permission
from tests.fakes.command_line import run
from tests.fakes.random_commands import find_command, paths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.controller import ScriptedController

GUESTS: dict[str, Permission] = {
    "show": Permission.SEE,
    "explain": Permission.SEE,
    "history": Permission.SEE,
    "events": Permission.SEE,
    "logs": Permission.LOG,
    "start": Permission.START,
    "stop": Permission.STOP,
    "extend": Permission.EXTEND,
    "snapshot": Permission.SNAPSHOT,
    "clone": Permission.CLONE_SHARED,
    "ssh": Permission.WATCH,
    "open": Permission.VISIT,
}
"""Commands for guests, and the permission that the weakest role for them gives."""
ANY_GRANT = {"leave"}
"""Commands for which any grant is enough."""
REST = {"extend": ["1h"], "clone": ["mine", "--at", "1"], "ssh": ["true"], "open": ["board", "--print"]}
"""Further words of a valid command line."""


class Everything(dict[str, BerthError]):
    """Failures of all calls."""

    def __init__(self, error: BerthError) -> None:
        super().__init__()
        self._error = error

    def get(self, *_: object) -> BerthError:
        return self._error


def commands() -> Iterator[tuple[str, click.Parameter]]:
    """Yield each command with a parameter for a session, and that parameter."""
    for name in COMMANDS:
        for words, command in paths(find_command(name), name):
            for parameter in command.params:
                if isinstance(parameter.type, SessionName | NameOrResource):
                    yield " ".join(words), parameter


def accepts(parameter: click.Parameter, text: str) -> bool:
    with click.Context(click.Command("x")) as context:
        try:
            parameter.type.convert(text, parameter, context)
        except click.UsageError:
            return False
    return True


def test_commands_that_take_a_session_of_another_user_are_those_of_a_role() -> None:
    found = {name for name, parameter in commands() if accepts(parameter, "alice.dev")}
    assert found == GUESTS.keys() | ANY_GRANT, "give a new command its permission, or let it take own sessions alone"
    given = frozenset(itertools.chain(*ROLE_PERMISSIONS.values()))
    assert {*GUESTS.values()} <= given
    assert not OPERATOR_PERMISSIONS & {*GUESTS.values()} - given


@pytest.mark.parametrize("command", [*GUESTS, *ANY_GRANT])
def test_a_refusal_of_the_controller_is_the_end_of_the_command(controller: ScriptedController, command: str) -> None:
    """No command decides about access by itself, or continues in another way."""
    refusal = RefusedError("only alice may do this with alice.dev; your role there is watch")
    controller.failures = Everything(refusal)
    result = run(command, "alice.dev", *REST.get(command, []))
    assert (result.exit_code, refusal.message in result.stderr) == (4, True), result.stderr
