"""The line-by-line menu, for screen readers and for terminals that cannot move the cursor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.core.detail import detail_texts
from tui.core.session_list import ListState
from tui.core.site_facts import SiteFacts
from tui.core.summary import describe_session, title_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.sessions import SessionView
    from tui.core.catalogue_action import CatalogueAction

HELP = (
    "Type the number of a session for its details and actions.",
    "Type a number and an action to run it, such as: 2 ssh",
    "Type / and words to list only sessions that contain them; / alone lists all.",
    "Type r to read the list again, h for this help, q to quit.",
)


@dataclass(frozen=True, slots=True)
class Reply:
    """Lines to print, and what the menu does next."""

    lines: Sequence[str] = ()
    command: Sequence[str] = ()
    """The command line to run; words in capitals are asked for first."""
    refresh: bool = False
    quit: bool = False


_FIXED = {
    **dict.fromkeys(("q", "quit", "exit"), Reply(quit=True)),
    **dict.fromkeys(("", "r"), Reply(refresh=True)),
}


class PlainMenu:
    """Turns a typed line into a reply. It prints nothing, and changes only after a typed line."""

    def __init__(self, actions: Sequence[CatalogueAction]) -> None:
        self._actions = actions
        self._site = SiteFacts()
        self.sessions = ListState()

    def take(self, views: Sequence[SessionView], site: SiteFacts) -> None:
        """Replace the sessions, and the facts about the site, by those that the controller returned."""
        self._site = site
        self.sessions.replace(views)

    def help(self) -> tuple[str, ...]:
        """Return the words that the menu takes, and the actions that concern no session."""
        general = [action for action in self._actions if _is_general(action)]
        return (*HELP, *(["Type one of these alone:"] if general else []), *_describe_actions(general))

    def list_sessions(self, now: float) -> list[str]:
        """Return the list: one numbered line for each session."""
        lines = [title_line(self.sessions)]
        lines += [f"{number}. {describe_session(view, now)}" for number, view in enumerate(self._shown_views(), 1)]
        if self.sessions.views and not self.sessions.shown_count:
            lines.append("No session contains this text. Type / to list all.")
        return lines

    def answer(self, line: str, now: float) -> Reply:
        """Return the reply to a typed line; an unknown one is refused in words."""
        line = line.strip()
        if line in _FIXED:
            return _FIXED[line]
        if line in {"h", "?", "help"}:
            return Reply(self.help())
        if line.startswith("/"):
            self.sessions.set_filter(line[1:])
            return Reply(self.list_sessions(now))
        number, _, action = line.partition(" ")
        shown = self._shown_views()
        if number.isdecimal() and 1 <= int(number) <= len(shown):
            view = shown[int(number) - 1]
            return self._act(view, action.strip(), number) if action else Reply(self._details(view, number, now))
        if number.isdecimal():
            return Reply([f"There is no session {number} in the list. Type r to read it again."])
        return self._act(None, line, "")

    def _shown_views(self) -> list[SessionView]:
        lines = [self.sessions.line(index) for index in range(self.sessions.line_count)]
        return [self.sessions.views[line] for line in lines if isinstance(line, str)]

    def _details(self, view: SessionView, number: str, now: float) -> list[str]:
        lines = [f"{title}: {text}" for title, text in detail_texts(view, self._site, now)]
        possible = [each for each in self._actions if not _is_general(each) and each.refusal(view) is None]
        return [f"Session {view.name}", *lines, "Actions:", *_describe_actions(possible, f"{number} ")]

    def _act(self, view: SessionView | None, word: str, number: str) -> Reply:
        found = next((action for action in self._actions if word in {action.id, action.key}), None)
        if found is None:
            return Reply([f"{word!r} is not an action. Type h for help, or {number or 'a number'} for the actions."])
        refusal = found.refusal(view)
        if refusal is not None:
            return Reply([f"{found.title}: {refusal}"])
        return Reply(command=found.command(view))


def _is_general(action: CatalogueAction) -> bool:
    """Whether the action concerns no session."""
    return action.refusal(None) is None


def _describe_actions(actions: Sequence[CatalogueAction], prefix: str = "") -> list[str]:
    return [f"{prefix}{action.id}: {action.title}" for action in actions]
