"""The part of an action that the frame of the interface needs: key, title, rule and command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.sessions import SessionView


class CatalogueAction(Protocol):
    """An action on one session, on several, or on none."""

    @property
    def id(self) -> str: ...

    @property
    def key(self) -> str:
        """The key in the list, by Textual's name; empty: only in the palette."""

    @property
    def title(self) -> str:
        """An imperative such as `stop the session`."""

    @property
    def group(self) -> str:
        """The section of the help."""

    def refusal(self, session: SessionView | None) -> str | None:
        """Return why the action is not possible for the session; None if it is. Without a session: for none."""

    def command(self, session: SessionView | None) -> Sequence[str]:
        """Return the command line that does the same; words in capitals stand for what only the user knows."""
