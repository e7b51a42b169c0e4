"""Show the progress of a wait: one changing line on a terminal, plain lines elsewhere, nothing with `--json`."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Self

from broker.cli.output import is_terminal, shorten, write
from broker.errors import ControllerUnavailableError, TimedOutError
from broker.format import escape_controls, format_duration
from broker.text.status import describe_operation, pending_operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from broker.client.client import Client
    from broker.schema.sessions import SessionView

POLL_S = 25.0
"""Time for which one request to the controller waits for a change."""

OUTAGE_S = 60.0
"""Time for which the controller may be away, such as for a restart or an upgrade, before the wait fails."""

_RETRY_S = 0.5

TERMINAL_STEP_S, PLAIN_STEP_S = 0.5, 5.0
"""Time between two reports of amounts: in the line of a terminal, and as lines of a file or a pipe."""


class ProgressLine:
    """A line on stderr with the current state. As a context manager, it clears the line at its exit.

    With `amounts`, a thread adds what that returns and the time that has passed: on a terminal every TERMINAL_STEP_S,
    elsewhere as a line every PLAIN_STEP_S.
    """

    def __init__(self, text: str = "", *, quiet: bool = False, amounts: Callable[[], str] | None = None) -> None:
        """`text` is shown at once on a terminal, and elsewhere after PLAIN_STEP_S."""
        self._quiet = quiet
        self._terminal = is_terminal(sys.stderr)
        self._text = escape_controls(text)
        self._shown = ""
        self._amounts = amounts
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if self._text and self._terminal:
            self.show(self._text)
        if self._amounts is not None and not self._quiet:
            threading.Thread(target=self._follow, args=(self._amounts,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.clear()

    def clear(self) -> None:
        """Clear the line for other output."""
        with self._lock:
            if self._terminal and self._shown:
                write("\r\x1b[K", err=True)
            self._shown = ""

    @property
    def changes(self) -> bool:
        """Whether the line changes in place, so that it can show short-lived details."""
        return self._terminal

    @property
    def lasted(self) -> float | None:
        """Seconds since the beginning; None if they are too few for a summary."""
        passed = time.monotonic() - self._began
        return passed if not self._quiet and passed >= (TERMINAL_STEP_S if self._terminal else PLAIN_STEP_S) else None

    def show(self, text: str) -> None:
        """Replace the shown text; do nothing if it is the same."""
        line = escape_controls(text)
        if self._quiet or (line == self._text and self._shown.startswith(line)):  # perhaps with amounts
            return
        with self._lock:
            self._text = line
            self._draw(line)

    def _follow(self, amounts: Callable[[], str]) -> None:
        """Add amounts and the passed time to the text until the end."""
        while not self._over.wait(TERMINAL_STEP_S if self._terminal else PLAIN_STEP_S):
            done = amounts()
            passed = format_duration(time.monotonic() - self._began)
            with self._lock:
                if self._text and not self._over.is_set():
                    self._draw(", ".join(filter(None, (self._text, escape_controls(done), passed))))

    def _draw(self, line: str) -> None:
        if line == self._shown:
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
        view = _wait_for_next(client, view, deadline)


def _wait_for_next(client: Client, view: SessionView, deadline: float | None) -> SessionView:
    give_up = None
    while True:
        now = time.monotonic()
        if deadline is not None and now >= deadline:
            operation = pending_operation(view)
            if view.beside and view.endpoint is not None:
                raise TimedOutError(
                    f"{view.name} is still in its present job, and moves to the new one when that runs",
                    hint=f"`berth resize {view.name} --cancel` keeps it there",
                )
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
