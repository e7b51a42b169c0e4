"""Sessions as the pages show them, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.format import format_duration
from broker.schema.states import LIVE, SessionState
from broker.text.advice import next_step
from broker.text.ide_links import LINKS
from broker.text.session import describe_gpu, stale_note
from broker.text.status import describe_idle, describe_state, pending_operation
from broker.text.timeline import timeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.sessions import JobView, SessionView
    from broker.schema.site import SiteView

_TONES = {SessionState.READY: "good", SessionState.FAILED: "bad", SessionState.STOPPED: "quiet"}
_IDE_TITLES = {"vscode": "VS Code", "cursor": "Cursor", "jetbrains": "JetBrains Gateway", "zed": "Zed"}
TIMELINE_CELLS = 200
_WAITS, _RUNS = "░", "█"


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session on the page of all sessions, and at the top of its own pages."""

    view: SessionView
    state: str
    """One word, or a few."""
    tone: str
    """The class of the state's colour, which only repeats the word."""
    status: str
    """The state with its reason, place in the queue and deadlines."""
    advice: str
    facts: list[tuple[str, str]]


def summarize(view: SessionView, now: float) -> SessionSummary:
    """Return the summary of a session."""
    operation = pending_operation(view)
    state = "changing" if operation is not None and view.state is SessionState.STOPPED else str(view.state)
    return SessionSummary(
        view,
        state,
        _TONES.get(view.state, "busy"),
        describe_state(view, now) + stale_note(view, now),
        next_step(view, now),
        _facts(view, now),
    )


def _facts(view: SessionView, now: float) -> list[tuple[str, str]]:
    """Return titles and texts; without those that do not apply."""
    left = format_duration(view.ends_at - now) if view.ends_at is not None and view.state in LIVE else ""
    facts = [
        ("Profile", f"{view.profile}@{view.version}"),
        ("GPU", describe_gpu(view.options)),
        ("Node", view.endpoint.node if view.endpoint else ""),
        ("Time left", left),
        ("Idle", describe_idle(view, now).removeprefix("idle ")),
    ]
    return [(title, text) for title, text in facts if text]


def change_key(view: SessionView) -> tuple[object, ...]:
    """Return what has to differ for a change that is announced. Estimates and counters change too often."""
    operation = pending_operation(view)
    node = None if view.endpoint is None else view.endpoint.node
    return view.state, node, None if operation is None else operation.verb, view.node_condition, view.idle_stop_at


@dataclass(frozen=True, slots=True)
class IdeLink:
    title: str
    link: str
    command: str


def ide_links(view: SessionView, site: SiteView) -> list[IdeLink]:
    """Return links that open the session in IDEs of the user's machine."""
    host = f"{view.name}.{site.domain}"
    return [
        IdeLink(_IDE_TITLES[ide], make_link(host, view.owner, f"/home/{view.owner}"), f"berth open {view.name} {ide}")
        for ide, make_link in LINKS.items()
    ]


@dataclass(frozen=True, slots=True)
class JobBar:
    """A job in the history. Its bar is of TIMELINE_CELLS units: where the job waited and where it ran."""

    job: str
    node: str
    text: str
    waited_at: int
    waited: int
    ran_at: int
    ran: int


def job_bars(jobs: Sequence[JobView], now: float) -> list[JobBar]:
    """Return the jobs, the latest first."""
    return [
        JobBar(
            row.job,
            row.node,
            row.text,
            max(row.bar.find(_WAITS), 0),
            row.bar.count(_WAITS),
            max(row.bar.find(_RUNS), 0),
            row.bar.count(_RUNS),
        )
        for row in timeline(jobs, now, TIMELINE_CELLS)
    ]
