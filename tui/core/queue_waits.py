"""The waits of the user's jobs in Slurm's queue during the last day, as bars with their times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.format import format_duration, format_time, pluralize
from tui.core.signs import UNICODE, draw_bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from broker.schema.sessions import JobView, SessionView

DAY_S = 86400.0
MAX_SESSIONS = 20
"""Sessions whose jobs are read: those with the latest jobs."""
MAX_BARS = 12
MIN_SCALE_S = 1.0
"""The least length of a whole bar: shorter waits are drawn as parts of it."""
_TEXT_CELLS = 46
"""Cells beside a bar."""
_MIN_BAR, _MAX_BAR = 8, 60
_NAME_CELLS = 16


@dataclass(frozen=True, slots=True)
class QueueWait:
    """The time that one job waited."""

    session: str
    began_at: float
    seconds: float
    ended: bool
    """Whether the job has started; otherwise it still waits."""


def recently_submitted(views: Iterable[SessionView], now: float) -> list[str]:
    """Return the names of sessions with a job of the last day, at most MAX_SESSIONS, the latest first."""
    found = [(view.submitted_at, view.name) for view in views if (view.submitted_at or 0) >= now - DAY_S]
    return [name for _, name in sorted(found, reverse=True)[:MAX_SESSIONS]]


def find_waits(session: str, jobs: Sequence[JobView], now: float) -> list[QueueWait]:
    """Return the waits of a session's jobs that began during the last day, and whose length is known.

    A successor waits for the end of the job before it by intent; only what follows counts. Of a job that Slurm has
    requeued, the first start is unknown. A later run of the session in a kept job has not waited.
    """
    waits = []
    kept: int | None = None
    former_end: float | None = 0.0
    for job in sorted((job for job in jobs if job.job_id is not None), key=lambda job: job.submission):
        begin = None if former_end is None else max(job.submitted_at or job.asked_at, former_end)
        end = job.started_at if job.started_at is not None else None if job.ended_at is not None else now
        known = begin is not None and end is not None and not job.restarts and job.job_id != kept
        if begin is not None and end is not None and known and begin >= now - DAY_S:
            waits.append(QueueWait(session, begin, max(end - begin, 0.0), job.started_at is not None))
        former_end, kept = job.ended_at, job.job_id
    return waits


def wait_lines(waits: Sequence[QueueWait], now: float, cells: int) -> list[str]:
    """Return the latest waits as bars to scale, the latest first, below a line with their number and their median."""
    title = "Your waits in the queue, last 24 h: "
    if not waits:
        return [f"{title}none"]
    lengths = sorted(wait.seconds for wait in waits)
    longest, middle = lengths[-1], (lengths[(len(lengths) - 1) // 2] + lengths[len(lengths) // 2]) / 2
    title += f"{pluralize(len(waits), 'job')}, median {format_duration(middle)}"
    width = min(max(cells - _TEXT_CELLS, _MIN_BAR), _MAX_BAR)
    lines = [f"{title}, longest {format_duration(longest)}"]
    for wait in sorted(waits, key=lambda wait: -wait.began_at)[:MAX_BARS]:
        name = wait.session if len(wait.session) <= _NAME_CELLS else wait.session[: _NAME_CELLS - 1] + UNICODE.cut
        bar = draw_bar(wait.seconds / max(longest, MIN_SCALE_S), width, UNICODE)
        still = "" if wait.ended else " so far"
        at = format_time(wait.began_at, now)
        lines.append(f"  {at[-16:]:>16} {name:<{_NAME_CELLS}} |{bar}| {format_duration(wait.seconds)}{still}")
    return lines
