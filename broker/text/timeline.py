"""A session's history as a timeline: one line for each job, with its waiting and its running time drawn to scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.format import format_duration, format_time
from broker.text.job import count_jobs, describe_job_outcome, gpu_hours, run_time

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.sessions import JobView

MIN_BAR_CELLS = 10


_WAITS, _RUNS, _NONE = "░", "█", " "


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """A job's line."""

    job: str
    node: str
    bar: str
    """As many characters as the timeline is wide."""
    text: str
    """Start, duration and end in words: everything that the bar shows, too."""


def timeline(jobs: Sequence[JobView], now: float, cells: int) -> list[TimelineRow]:
    """Return a line for each job, the latest first, over the time from the first request until now."""
    cells = max(cells, MIN_BAR_CELLS)
    begin = min((job.asked_at for job in jobs), default=now)
    scale = cells / max(now - begin, 1.0)

    def cell(at: float) -> int:
        return min(max(round((at - begin) * scale), 0), cells)

    rows = []
    for job in jobs:
        end = cell(job.ended_at if job.ended_at is not None else now)
        started = cell(job.started_at) if job.started_at is not None else end
        waited = cell(job.asked_at)
        started = max(started, waited)
        bar = _NONE * waited + _WAITS * (started - waited) + _RUNS * (end - started)
        if job.started_at is not None and end <= started:  # a short run still shows
            bar = bar[: min(started, cells - 1)] + _RUNS
        rows.append(
            TimelineRow(
                "" if job.job_id is None else str(job.job_id), job.node, bar[:cells].ljust(cells), _text(job, now)
            )
        )
    return rows


def timeline_scale(jobs: Sequence[JobView], now: float) -> str:
    """Describe the ends of the timeline, and the sum of GPU hours."""
    if not jobs:
        return "no jobs yet"
    begin = min(job.asked_at for job in jobs)
    hours = gpu_hours(list(jobs), now)
    used = f", {hours:.1f} GPU hours" if hours else ""
    count = count_jobs(jobs)
    return f"{format_time(begin, now)} to {format_time(now, now)} ({format_duration(now - begin)}): {count}{used}"


def _text(job: JobView, now: float) -> str:
    if job.started_at is None:
        waited = (job.ended_at or now) - job.asked_at
        ran = f"waited {format_duration(waited)}"
    else:
        waited = job.started_at - (job.submitted_at or job.asked_at)
        ran = f"waited {format_duration(waited)}, ran {format_duration(run_time(job, now))} from "
        ran += format_time(job.started_at, now)
    return f"{ran}, {describe_job_outcome(job)}"
