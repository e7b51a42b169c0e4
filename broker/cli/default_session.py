"""The session of a command that names none: the only one, or the only one with a job; else the user is asked."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.questions import ask_choice
from broker.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.cli.context import Invocation
    from broker.schema.sessions import SessionView

MAX_NAMES = 10
"""Names in a message."""


def default_session(invocation: Invocation) -> str:
    """Return the name of the user's only session, of the only one with a job, or of the one that the user chooses.

    NotFoundError without any session; InvalidInputError if there is no terminal to ask at.
    """
    from broker.schema.states import LIVE

    views = sorted(invocation.client.sessions(), key=lambda view: view.used_at or 0, reverse=True)
    if not views:
        raise NotFoundError("you have no session", hint="`berth start NAME --profile PROFILE` creates one")
    if len(views) == 1:
        return views[0].name
    live = [view for view in views if view.state in LIVE]
    if len(live) == 1:
        output.print_note(f"berth: {live[0].name}, your only session with a job")
        return live[0].name
    return _choose(views)


def _choose(views: Sequence[SessionView]) -> str:
    """Ask for one of the sessions, of which the first one is the default."""
    names = [view.name for view in views]
    if not output.is_terminal(sys.stdin):
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        raise InvalidInputError(
            "the session's name is missing", hint=f"name one of your sessions: {', '.join(names[:MAX_NAMES])}{more}"
        )
    for number, view in enumerate(views, 1):
        output.print_note(f"{number:>3}  {view.name}  {view.state}, {view.profile}@{view.version}")
    chosen = ask_choice(
        "Which session, the last used one first?",
        [*map(str, range(1, len(names) + 1)), *names],
        default="1",
        remedy="type a number of the list, or a name",
    )
    return chosen if chosen in names else names[int(chosen) - 1]
