"""Apply a command to several sessions: the named ones, or all in some states."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import click

from broker.cli import output
from broker.cli.errors import InterruptedWaitError
from broker.errors import BerthError, InvalidInputError
from broker.format import escape_controls, pluralize

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from broker.cli.context import Invocation
    from broker.schema.sessions import SessionState, SessionView

_Result = TypeVar("_Result")


def all_option(which: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option `--all`, which selects `which` sessions."""
    return click.option("--all", "every", is_flag=True, help=f"Select all {which} sessions instead of NAME.")


def selected_names(
    invocation: Invocation, names: Sequence[str], states: Collection[SessionState], *, every: bool
) -> list[str]:
    """Return the names without repetitions; with `every`, of all sessions in these states.

    InvalidInputError without names, and with both.
    """
    if bool(names) == every:
        wrong = "NAME and --all exclude each other" if every else "the session's name is missing"
        raise InvalidInputError(wrong, hint="name sessions, or use --all; `berth list` shows your sessions")
    if not every:
        return list(dict.fromkeys(names))
    return [view.name for view in invocation.client.sessions() if view.state in states]


def apply_to_each(names: Sequence[str], action: Callable[[str], _Result], failed: list[BerthError]) -> list[_Result]:
    """Call the action for each name and return the results. Errors are printed and appended to `failed`.

    With one name, the error is raised instead. Ctrl-C ends the command.
    """
    if len(names) == 1 and not failed:
        return [action(names[0])]
    results = []
    for name in names:
        try:
            results.append(action(name))
        except InterruptedWaitError:
            raise
        except BerthError as error:
            failed.append(error)
            hint = f"\n  hint: {error.hint}" if error.hint else ""
            output.write(escape_controls(f"berth: {name}: {error.message}{hint}", keep="\n") + "\n", err=True)
    return results


def print_views(invocation: Invocation, views: Sequence[SessionView], *, single: bool) -> None:
    """With `--json`, print the sessions: one as an object, several as a list."""
    if not invocation.json:
        return
    if single:
        output.print_json(views[0])
    else:
        output.print_json({"sessions": [view.model_dump(mode="json") for view in views]})


def raise_failures(failed: Sequence[BerthError], count: int) -> None:
    """Raise an error with the first failure's exit code, if there are failures among `count` sessions."""
    if failed:
        raise type(failed[0])(f"{len(failed)} of {pluralize(count, 'session')} failed")
