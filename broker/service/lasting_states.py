"""Log a state that lasts once, and not at each attempt that meets it."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

MAX_STATES = 10_000
"""States that are remembered; above it, the oldest is forgotten and may be logged again."""


class LastingStates:
    """The last message about each state, by its key, such as `cancel` and the id of a job."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._texts: OrderedDict[str, str] = OrderedDict()

    def report(self, key: str, level: int, text: str, *, cause: Exception | None = None) -> bool:
        """Log the text, unless the last one of that key was the same. Return whether it was logged.

        `cause`: an error whose traceback is logged with it.
        """
        if self._texts.get(key) == text:
            return False
        self._texts[key] = text
        self._texts.move_to_end(key)
        while len(self._texts) > MAX_STATES:
            self._texts.popitem(last=False)
        self._log.log(level, "%s", text, exc_info=cause, stacklevel=2)
        return True

    def end(self, key: str) -> bool:
        """Forget the state of that key; return whether there was one."""
        return self._texts.pop(key, None) is not None
