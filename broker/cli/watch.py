"""Follow the caller's sessions for `berth list --watch` and `berth show --watch`."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.client.client import Client
from broker.config.file import site_socket
from broker.errors import BerthError, ControllerUnavailableError
from broker.schema.watch import SessionsChange, SessionsSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.cli.context import Invocation
    from broker.schema.sessions import SessionView
    from broker.schema.watch import SessionsEvent

REDRAW_S = 30.0
"""Seconds without a change after which the caller gets another look, for times that pass."""
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 5.0
"""Seconds between two attempts to reconnect."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of the selected sessions."""

    changed: list[SessionView] = field(default_factory=list)
    """Changed and new sessions."""
    left: list[SessionView] = field(default_factory=list)
    """Sessions that are not selected any more."""
    deleted: list[SessionView] = field(default_factory=list)
    """The last known records of deleted sessions."""


@dataclass(frozen=True, slots=True)
class Look:
    """The selected sessions at one time."""

    views: list[SessionView]
    """Sorted by name."""
    changes: Changes
    """The changes since the look before."""
    lost_at: float | None
    """The time at which the connection to the controller was lost, until there is another one."""


class _Reader:
    """A thread that reads events, and reconnects for ever once it was connected.

    It reads the next event when the last one was taken, so that the controller merges changes for a slow terminal.
    """

    def __init__(self, invocation: Invocation) -> None:
        self._watch = invocation.client.watch()
        # A site's controller is started by systemd, and this thread must not print that it waits for that.
        self._client = invocation.client if site_socket() is None else Client(invocation.api_socket)
        self._over = threading.Event()
        self.events: queue.Queue[SessionsEvent | BerthError] = queue.Queue(maxsize=1)
        threading.Thread(target=self._read, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._watch.close()

    def _read(self) -> None:
        revision: str | None = None
        pause = FIRST_RETRY_S
        try:
            while not self._over.is_set():
                try:
                    for event in self._watch:
                        revision, pause = event.revision, FIRST_RETRY_S
                        self.events.put(event)
                except ControllerUnavailableError as error:
                    self.events.put(error)
                    pause = self._reconnect(revision, pause)
        except BerthError as error:
            self.events.put(error)

    def _reconnect(self, since: str | None, pause: float) -> float:
        """Make another watch. Return the pause before the next attempt if that one fails at once, too."""
        while not self._over.wait(pause):
            pause = min(2 * pause, LAST_RETRY_S)
            with contextlib.suppress(ControllerUnavailableError):
                self._watch = self._client.watch(since)
                if since is not None:  # the controller may have nothing to send
                    self.events.put(SessionsChange(since))
                break
        return pause


def follow_sessions(invocation: Invocation, selects: Callable[[SessionView], bool]) -> Iterator[Look]:
    """Yield a look at the selected sessions, then one after each change, and at the latest every REDRAW_S; without end.

    Waits while the controller restarts. Raises the controller's refusal, and ControllerUnavailableError only for the
    first connection.
    """
    reader = _Reader(invocation)
    known: dict[str, SessionView] = {}
    lost_at: float | None = None
    has_begun = False
    try:
        while True:
            event: SessionsEvent | BerthError | None = None
            with contextlib.suppress(queue.Empty):
                event = reader.events.get(timeout=REDRAW_S)
            if isinstance(event, ControllerUnavailableError):
                lost_at = lost_at or time.time()
                event = None
            elif isinstance(event, BerthError):
                raise event
            elif event is not None:
                lost_at, has_begun = None, True
            if not has_begun:
                continue
            changes = Changes() if event is None else _apply(known, event, selects)
            yield Look(sorted(known.values(), key=lambda view: view.name), changes, lost_at)
    finally:
        reader.close()


def _apply(known: dict[str, SessionView], event: SessionsEvent, selects: Callable[[SessionView], bool]) -> Changes:
    """Bring the known sessions up to date, and return what changed."""
    views = event.sessions if isinstance(event, SessionsSnapshot) else event.changed
    gone = set(known) - {view.id for view in views} if isinstance(event, SessionsSnapshot) else set(event.removed)
    changes = Changes(deleted=[known.pop(session_id) for session_id in sorted(gone & set(known))])
    for view in views:
        if selects(view):
            if not _is_same(known.get(view.id), view):
                changes.changed.append(view)
            known[view.id] = view
        elif known.pop(view.id, None) is not None:
            changes.left.append(view)
    return changes


def _is_same(before: SessionView | None, view: SessionView) -> bool:
    return before is not None and before.model_dump(mode="json") == view.model_dump(mode="json")
