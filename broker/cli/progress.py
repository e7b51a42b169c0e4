"""Show the progress of a wait: one changing line on a terminal, plain lines elsewhere, nothing with `--json`."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Self

from broker.cli.output import escape_controls, is_terminal, shorten, write
from broker.errors import ControllerUnavailableError, TimedOutError
from broker.status_text import describe_operation, pending_operation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from broker.client.client import Client
    from broker.schema.sessions import SessionView

POLL_S = 25.0
"""Time for which one request to the controller waits for a change."""

OUTAGE_S = 60.0
"""Time for which the controller may be away, such as for a restart or an upgrade, before the wait fails."""

_RETRY_S = 0.5


class ProgressLine:
    """A line on stderr with the current state. As a context manager, it clears the line at its exit."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = is_terminal(sys.stderr)
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def clear(self) -> None:
        """Clear the line for other output."""
        if self._terminal and self._shown:
            write("\r\x1b[K", err=True)
        self._shown = ""

    @property
    def changes(self) -> bool:
        """Whether the line changes in place, so that it can show short-lived details."""
        return self._terminal

    def show(self, text: str) -> None:
        """Replace the shown text; do nothing if it is the same."""
        line = escape_controls(text)
        if self._quiet or line == self._shown:
            return
        self._shown = line
        if self._terminal:
            width = shutil.get_terminal_size().columns
            _, separator, end = line.rpartition(", ")
            write(f"\r{shorten(line, width - 1, tail=separator + end)}\x1b[K", err=True)
        else:
            write(f"{line}\n", err=True)


def follow_session(client: Client, view: SessionView, *, timeout: float | None = None) -> Iterator[SessionView]:
    """Yield `view`, then a new view after each change, and at the latest every POLL_S seconds; without end.

    Raises TimedOutError after `timeout` seconds and NotFoundError when the session is gone. Waits while the controller
    restarts.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        yield view
        view = _next(client, view, deadline)


def _next(client: Client, view: SessionView, deadline: float | None) -> SessionView:
    give_up = None
    while True:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            operation = pending_operation(view)
            raise TimedOutError(
                f"{view.name} is still {describe_operation(operation.verb) if operation else view.state}",
                hint=f"the operation continues; `berth show {view.name}` shows its progress",
            )
        wait = POLL_S if deadline is None else min(POLL_S, deadline - now)
        try:
            return client.session(view.name, after=view.revision, wait=wait)
        except ControllerUnavailableError:
            give_up = give_up or now + OUTAGE_S
            if time.monotonic() + _RETRY_S > give_up:
                raise
            time.sleep(_RETRY_S)
