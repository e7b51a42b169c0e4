"""The type of the catalogue's actions, and the rules that all actions have in common."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.forms.form import YES, Form
from broker.schema.states import LIVE
from broker.text import allowed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.schema.sessions import SessionView

NO_SELECTION = "choose a session first"

JOB, FILES, CONNECT, LOOK, POLICY = "Job", "Snapshots and files", "Connect", "Look", "Session"
SHARING = "Sharing"
"""The groups, in which the help lists the actions."""


class Danger(Enum):
    """The consequence of an action, which decides how it is confirmed."""

    NONE = auto()
    ENDS_PROGRAMS = auto()
    """Running programs may end; the files are kept, and the action can be undone."""
    CHANGES_FILES = auto()
    """Files are changed or removed, and the action can be undone."""
    PERMANENT = auto()
    """It cannot be undone: the user types the session's name."""


class RunMode(Enum):
    """The way in which an action is carried out."""

    CALL = auto()
    """A call to the controller's API."""
    TERMINAL = auto()
    """The `berth` command in the user's terminal; the interface waits."""
    OUTPUT = auto()
    """The `berth` command in the background; its output is shown."""
    SCREEN = auto()
    """A screen of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAction:
    """One action on one session, on several, or on none."""

    id: str
    key: str = ""
    """The key in the list, by Textual's name; empty: only in the palette."""
    title: str
    group: str
    verb: tuple[str, ...]
    """The words of the equivalent command after `berth`, without the session's name."""
    mode: RunMode = RunMode.CALL
    rule: Callable[[SessionView], str | None] = allowed.exists
    danger: Danger = Danger.NONE
    several: bool = False
    """Whether it acts on several sessions at once, as the command does."""
    needs_session: bool = True
    make_form: Callable[[], Form] | None = None
    form_words: Callable[[Form], list[str]] | None = None
    """The words that the form adds after the session's name."""
    missing: tuple[str, ...] = field(default=())
    """The words in place of the form's, while there is none; the user replaces those in capitals."""

    def refusal(self, session: SessionView | None) -> str | None:
        """Return why the action is not possible for the session now; None if it is."""
        if session is None:
            return NO_SELECTION if self.needs_session else None
        try:
            return self.rule(session)
        except BerthError:  # a controller of a later version may use other words for states
            return "its state is unknown to this version of Berth"

    def command(self, session: SessionView | None) -> list[str]:
        """Return the equivalent command line, with words in capitals for what a form asks."""
        return self.command_line([] if session is None else [session])

    def command_line(self, sessions: Sequence[SessionView], form: Form | None = None) -> list[str]:
        """Return the command line for the sessions with a form's values. InvalidFormError if the form is invalid."""
        names = [session.name for session in sessions] or ["NAME"]
        if form is not None:
            form.values()
        if form is None or self.form_words is None:
            return ["berth", *self.verb, *(names if self.needs_session else []), *self.missing]
        if self.id == "new":
            return self.form_words(form)
        return ["berth", *self._verb(form), *(names if self.needs_session else []), *self.form_words(form)]

    def _verb(self, form: Form) -> tuple[str, ...]:
        root = self.id == "exec" and form.text("root") == YES
        return (*self.verb, "--root") if root else self.verb


def refusal(action: SessionAction, sessions: Sequence[SessionView]) -> str | None:
    """Return why the action is not possible for these sessions now; None if it is."""
    if not action.needs_session:
        return None
    if not sessions:
        return NO_SELECTION
    if len(sessions) > 1 and not action.several:
        return f"this action is for one session, and {len(sessions)} are marked"
    return next((reason for session in sessions if (reason := action.refusal(session))), None)


def needs_confirmation(action: SessionAction, sessions: Sequence[SessionView]) -> bool:
    """Whether the user is asked before: not about programs if no session has a job."""
    if action.danger is Danger.ENDS_PROGRAMS:
        return any(session.state in LIVE for session in sessions)
    return action.danger is not Danger.NONE


def shell_line(words: Sequence[str]) -> str:
    """Return a command line as it can be pasted into a shell."""
    return shlex.join(words)
