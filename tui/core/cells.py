"""The cells of a session's row: text and meaning, without layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from broker.errors import BerthError
from broker.format import escape_controls, format_duration, format_time
from broker.schema.states import SessionState
from broker.text.session import describe_gpu, has_job
from broker.text.status import describe_operation, pending_operation
from tui.core.palette import Tone
from tui.core.signs import Signs, draw_bar
from tui.core.site_facts import SiteFacts

if TYPE_CHECKING:
    from broker.schema.sessions import SessionView

BAR_CELLS = 6
SOON_S = 600.0
"""Seconds before the end of a job at which its time left is shown as a warning; 3600 s is shown as active."""

STATE_TONES = {
    SessionState.READY: Tone.GOOD,
    SessionState.FAILED: Tone.ERROR,
    SessionState.STOPPED: Tone.MUTED,
    SessionState.DELETING: Tone.WARNING,
    SessionState.STOPPING: Tone.WARNING,
    SessionState.QUEUED: Tone.ACTIVE,
    SessionState.SUBMITTING: Tone.ACTIVE,
    SessionState.STARTING: Tone.ACTIVE,
    SessionState.CHANGING: Tone.ACTIVE,
}


class Cell(NamedTuple):
    """A text without control characters, and its meaning."""

    text: str
    tone: Tone = Tone.PLAIN


class CellContext(NamedTuple):
    """The facts beside the session on which a cell depends."""

    now: float
    signs: Signs
    site: SiteFacts = SiteFacts()


def state_of(view: SessionView) -> str:
    """Return the session's state; a word of a later version's controller is returned as it is."""
    try:
        return str(view.state)
    except BerthError:
        return str(view.model_dump(mode="json").get("state", "unknown"))


def name_cell(view: SessionView, _context: CellContext) -> Cell:
    return Cell(escape_controls(view.name))


def state_cell(view: SessionView, _context: CellContext) -> Cell:
    """Return the state; a question mark means that Slurm does not answer, so that the state may be out of date."""
    state = state_of(view)
    tone = STATE_TONES[SessionState(state)] if state in STATE_TONES else Tone.WARNING
    return Cell(escape_controls(state) + ("?" if view.stale_since is not None else ""), tone)


def where_cell(view: SessionView, context: CellContext) -> Cell:
    """Return the node of a ready session, the place in the queue, the operation that changes it, or the reason."""
    operation = pending_operation(view)
    if view.endpoint:
        parts = [view.endpoint.node, "root mode" if view.root else "", view.node_condition]
        text, tone = ", ".join(filter(None, parts)), Tone.WARNING if view.node_condition else Tone.PLAIN
    elif operation is not None:
        text, tone = describe_operation(operation.verb), Tone.ACTIVE
    else:
        parts = [_queue_place(view, context.now), view.interruption if has_job(view) else "", view.reason]
        text, tone = "; ".join(filter(None, parts)), Tone.ERROR if state_of(view) == "failed" else Tone.PLAIN
    return Cell(escape_controls(text), tone)


def profile_cell(view: SessionView, _context: CellContext) -> Cell:
    return Cell(escape_controls(f"{view.profile}@{view.version}"))


def owner_cell(view: SessionView, context: CellContext) -> Cell:
    return Cell(escape_controls(context.site.owner_of(view)), Tone.MUTED)


def newer_cell(view: SessionView, context: CellContext) -> Cell:
    """Return the newest version of the profile, if the session has another one."""
    return Cell(escape_controls(context.site.newer_version(view)), Tone.ACTIVE)


def gpu_cell(view: SessionView, context: CellContext) -> Cell:
    """Return the requested GPUs, and for how long they are idle."""
    text = describe_gpu(view.options)
    if not text or view.gpu_idle_since is None or not view.endpoint:
        return Cell(escape_controls(text))
    return Cell(escape_controls(f"{text} idle {_short(context.now - view.gpu_idle_since)}"), Tone.WARNING)


def left_cell(view: SessionView, context: CellContext) -> Cell:
    """Return the time until the end of the job, as a bar of its time limit and in words."""
    if not view.endpoint or view.ends_at is None:
        return Cell("")
    left = max(0.0, view.ends_at - context.now)
    tone = Tone.WARNING if left <= SOON_S else Tone.PLAIN
    text = _short(left) + (" +job" if view.next_job_id is not None else "")
    if view.started_at is None or view.ends_at <= view.started_at:
        return Cell(text, tone)
    bar = draw_bar(left / (view.ends_at - view.started_at), BAR_CELLS, context.signs)
    return Cell(f"{bar} {text}", tone)


def idle_cell(view: SessionView, context: CellContext) -> Cell:
    if not view.endpoint or view.idle_since is None:
        return Cell("")
    tone = Tone.WARNING if view.idle_stop_at is not None else Tone.MUTED
    return Cell(_short(context.now - view.idle_since), tone)


def clients_cell(view: SessionView, _context: CellContext) -> Cell:
    """Return the address of the client that has connected last, and how many others are connected."""
    if not view.clients:
        return Cell("")
    others = len(view.clients) - 1
    return Cell(escape_controls(view.clients[0] or "berth ssh") + (f" +{others}" if others else ""))


def stop_cell(view: SessionView, context: CellContext) -> Cell:
    """Return the scheduled stop, or the one of an idle session."""
    if not has_job(view):
        return Cell("")
    if view.idle_stop_at is not None:
        return Cell(f"idle {format_time(view.idle_stop_at, context.now)}", Tone.WARNING)
    if view.stop_at is None:
        return Cell("")
    return Cell(f"{'until' if view.stays else 'at'} {format_time(view.stop_at, context.now)}")


def job_cell(view: SessionView, _context: CellContext) -> Cell:
    return Cell("" if view.job_id is None else str(view.job_id), Tone.MUTED)


def snapshots_cell(view: SessionView, _context: CellContext) -> Cell:
    return Cell("" if view.volumes is None or not view.volumes.snapshots else str(view.volumes.snapshots))


def created_cell(view: SessionView, context: CellContext) -> Cell:
    return Cell(format_time(view.created_at, context.now), Tone.MUTED)


def _queue_place(view: SessionView, now: float) -> str:
    """Return the jobs ahead of a queued session's job, and its expected start: `3 ahead, ~12:30`."""
    if state_of(view) != "queued":
        return ""
    ahead = "" if view.ahead is None else "first in line" if view.ahead == 0 else f"{view.ahead} ahead"
    at = view.expected_start_at
    start = "" if at is None else f"~{format_time(at, now)}" if at > now else "~now"
    return ", ".join(filter(None, (ahead, start)))


def _short(seconds: float) -> str:
    """Format a duration in its largest unit, so that a cell rarely changes: `40 min`, `5 h`, `3 d`."""
    text = format_duration(max(60.0, seconds))
    return " ".join(text.split()[:2])
