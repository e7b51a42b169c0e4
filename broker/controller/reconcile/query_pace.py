"""The times of the next queries of Slurm: for all jobs, and for those of moving sessions by their ids.

A small cluster is queried for all jobs each time. Where that query takes long (49,000 jobs: 1 s), the jobs of moving
sessions are queried by their ids between two such queries (ADR 189).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.controller import clock

FIRST_QUERY_S, MOVING_QUERY_S, IDLE_QUERY_S = 0.05, 2.0, 15.0
"""Seconds between queries: after a change; at most while a session is moving; at most otherwise."""
AGE_FACTOR = 0.1
"""The share of the time since the last change after which the next query comes: a wait for 20 s costs 50 queries."""
LOAD_FACTOR, MAX_PAUSE_S = 5.0, 15.0
"""The pause before the next query is at least this many times the duration of the last one, which spares a busy
slurmctld; but at most so many seconds, so that Berth notices when slurmctld answers again."""
LEAST_REFRESH_S = 0.5
"""Seconds between two queries for people who only look."""
SLOW_QUERY_S = 0.1
"""A query for all jobs that takes longer is replaced by queries by id where they suffice."""


@dataclass(eq=False)
class QueryPace:
    """The times and costs of the last queries, and so the time of the next one."""

    moving: bool = True
    """Whether a session is in a transitional state."""
    ends: list[float] = field(default_factory=list)
    """Times at which jobs of ready sessions will end, and at which sessions will be stopped."""
    wants_all: bool = True
    """Whether the next query must be one for all jobs."""
    rest: bool = False
    """Whether no session moved, at the last query for all jobs, of which a query by id says nothing."""
    suffices: bool = False
    """Whether queries by id show all that moves: a query for all jobs may then wait."""
    _changed_at: float = field(default_factory=clock.monotonic)
    _all_at: float = -LEAST_REFRESH_S
    _all_took: float = 0.0
    """Time of the end of the last query for all jobs, and its duration."""
    _by_id_took: float = 0.0
    _refresh_at: float = -LEAST_REFRESH_S
    """Time of the next query that was requested by `refresh`."""

    def note_change(self) -> None:
        """Query often for a while from now on."""
        self._changed_at = clock.monotonic()

    def note_query(self, began: float) -> None:
        """Note that a query for all jobs, begun at that time, is over."""
        self._all_at = clock.monotonic()
        self._all_took = self._all_at - began

    def note_query_by_id(self, began: float) -> None:
        """Note that a query by ids, begun at that time, is over."""
        self._by_id_took = clock.monotonic() - began

    @property
    def is_slow(self) -> bool:
        """Whether a query for all jobs takes long."""
        return self._all_took > SLOW_QUERY_S

    @property
    def all_due(self) -> bool:
        """Whether the next query is one for all jobs, although queries by id suffice."""
        return clock.monotonic() >= self._all_due_at()

    def refresh_pause(self) -> float | None:
        """Return the seconds until a query for a user who only looks; None if one is on its way.

        It comes at once, or a moment after the last query if that was just now.
        """
        now = clock.monotonic()
        if self._refresh_at > now:
            return None
        self._refresh_at = max(self._all_at + max(LEAST_REFRESH_S, _least_pause(self._all_took)), now)
        return self._refresh_at - now

    def pause(self, took: float) -> float:
        """Return the seconds until the next query, after a tick of `took` seconds.

        They are subtracted, so that the rate of queries does not depend on the number of sessions.
        """
        wanted = self._pause_by_changes() - took
        if self.wants_all or not (self.suffices and self.is_slow):
            return max(wanted, FIRST_QUERY_S, _least_pause(self._all_took))
        by_id = max(wanted, FIRST_QUERY_S, _least_pause(self._by_id_took))
        return min(by_id, max(self._all_due_at() - clock.monotonic(), FIRST_QUERY_S))

    def _pause_by_changes(self) -> float:
        age = clock.monotonic() - self._changed_at
        pause = min(AGE_FACTOR * age, MOVING_QUERY_S if self.moving else IDLE_QUERY_S)
        return min([pause, *(-late if late < 0 else _pause_after(late) for late in self._late())])

    def _late(self) -> list[float]:
        """Return the seconds since each of the ends; negative before it."""
        return [clock.now() - at for at in self.ends]

    def _all_due_at(self) -> float:
        """Return the time of the next query for all jobs while queries by id suffice."""
        now, last = clock.monotonic(), self._all_at
        ends = [now - late if last < now - late else last + _pause_after(late) for late in self._late()]
        return max(min([last + IDLE_QUERY_S, *ends]), last + _least_pause(self._all_took))


def _pause_after(late: float) -> float:
    """Return the seconds between two queries that look for what should have ended `late` seconds ago."""
    return min(AGE_FACTOR * late, MOVING_QUERY_S)


def _least_pause(took: float) -> float:
    return min(LOAD_FACTOR * took, MAX_PAUSE_S)
