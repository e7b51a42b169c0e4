"""The newest states of the sessions that one browser may see, and what a page of it has not shown yet.

A page has a position and no queue: a slow browser gets the newest state of each session, however many it has missed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from broker.names import new_id
from broker.schema.sessions import SessionView
from broker.schema.watch import CHANGE_EVENT, SNAPSHOT_EVENT
from broker.text.session import state_line
from broker.web.portal.session_view import change_key

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_REMOVED = 100
"""Deleted sessions that are remembered. A page that is further behind announces no older ones."""


class _Session(NamedTuple):
    name: str
    key: tuple[object, ...]
    line: str
    """The state in words."""
    announced: int
    """The number of the last change that is announced."""
    changed: int
    """The number of the last change of anything."""


class PageNews(NamedTuple):
    """The changes that a page does not show yet."""

    number: int
    """The position of a page that shows it."""
    lines: list[str]
    """The changes to announce, one for each session."""
    is_outdated: bool
    """Whether the page has to be loaded again."""


class BrowserFeed:
    """The sessions of one browser's delegation."""

    def __init__(self, delegation: str) -> None:
        """`delegation`: its secret."""
        self.delegation = delegation
        self.watch_id = new_id()
        """The id of the present watch at the controller."""
        self.delegation_id = ""
        """Known when the controller has accepted the watch."""
        self.expires_at: float | None = None
        self.pages = 0
        """Pages of the browser that are open."""
        self._has_ended = False
        self._number = 0
        self._sessions: dict[str, _Session] = {}
        self._removed: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """Name and number of the change, by the session's id."""
        self._news = asyncio.Event()

    @property
    def has_ended(self) -> bool:
        """Whether the browser is logged out, by the controller's word or by the clock."""
        return self._has_ended or (self.expires_at is not None and self.expires_at <= time.time())

    def end(self) -> None:
        """Let the pages know that the login has ended. They get no change any more."""
        self._has_ended = True
        self._wake()

    def apply(self, kind: str, data: str) -> None:
        """Take over an event of the controller. ValueError, LookupError or TypeError if it is of another version."""
        record = json.loads(data)
        if kind == SNAPSHOT_EVENT:
            views = [SessionView.model_validate(each) for each in record["sessions"]]
            self._replace(views, self._sessions.keys() - {view.id for view in views}, is_first=self._number == 0)
        elif kind == CHANGE_EVENT:
            self._replace([SessionView.model_validate(each) for each in record["changed"]], record["removed"])

    def news(self, position: int, only: str = "") -> PageNews:
        """Return what has changed since the position, 0 for a page that has just been opened.

        `only`: the name of the only session that the page shows.
        """
        shown = [each for each in self._sessions.values() if only in {"", each.name} and each.changed > position]
        gone = [name for name, number in self._removed.values() if only in {"", name} and number > position]
        lines = [each.line for each in shown if each.announced > position]
        if position == 0:
            return PageNews(self._number, [], is_outdated=self._number > 0)
        return PageNews(self._number, [*lines, *(f"{name} is deleted" for name in gone)], bool(shown or gone))

    async def wait(self, position: int, seconds: float) -> bool:
        """Return when there are news since the position, or after `seconds` at most; whether there may be some."""
        if self.expires_at is not None:
            seconds = max(min(seconds, self.expires_at - time.time()), 0)
        news = self._news
        if self._number > position or self.has_ended:
            return True
        try:
            await asyncio.wait_for(news.wait(), seconds)
        except TimeoutError:
            return self.has_ended
        return True

    def _replace(self, views: list[SessionView], removed: Iterable[str], *, is_first: bool = False) -> None:
        """Replace the states of these sessions, and remove others. The first ones of all are not announced."""
        self._number += 1
        for view in views:
            before, key = self._sessions.get(view.id), change_key(view)
            if before is None:
                announced = 0 if is_first else self._number
            else:
                announced = before.announced if before.key == key else self._number
            self._sessions[view.id] = _Session(view.name, key, state_line(view), announced, self._number)
        for session_id in removed:
            session = self._sessions.pop(session_id, None)
            if session is not None:
                self._removed[session_id] = session.name, self._number
        while len(self._removed) > MAX_REMOVED:
            self._removed.popitem(last=False)
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
