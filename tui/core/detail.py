"""The page of one session as titles and texts, and its times as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.format import escape_controls, format_duration
from broker.text.session import session_page
from tui.core.signs import draw_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import SessionView
    from tui.core.signs import Signs
    from tui.core.site_facts import SiteFacts

BAR_CELLS = 16


def detail_texts(view: SessionView, site: SiteFacts, now: float) -> list[tuple[str, str]]:
    """Return titles and texts without control characters. For a later version's session, say that."""
    try:
        return [(title, escape_controls(text)) for title, text in _page(view, site, now)]
    except BerthError as error:
        return [("error", f"{error.message}; {error.hint}")]


def _page(view: SessionView, site: SiteFacts, now: float) -> Iterator[tuple[str, str]]:
    """Yield what `berth show` prints, and below the profile a newer version."""
    for title, text in session_page(view, site.domain, now, site.stores):
        yield title, text
        if title == "profile" and (version := site.newer_version(view)):
            yield "newer", f"{version}; `berth switch {view.name} {site.profile_name(view)}` moves to it"


def detail_bars(view: SessionView, now: float, signs: Signs) -> list[tuple[str, str]]:
    """Return titles and bars with their numbers: of the job's time, and of the idle times that the session reports.

    A session reports neither how much of its processors and memory it uses, nor how much of its GPU.
    """
    return [
        (
            title,
            f"|{draw_bar(part / whole, BAR_CELLS, signs)}| {format_duration(part)} of {format_duration(whole)}{note}",
        )
        for title, part, whole, note in _spans(view, now)
        if whole > 0
    ]


def _spans(view: SessionView, now: float) -> Iterator[tuple[str, float, float, str]]:
    """Yield title, seconds, the seconds of a whole bar, and a note."""
    if not view.endpoint or view.started_at is None:
        return
    if view.ends_at is not None:
        yield "time left", max(view.ends_at - now, 0.0), view.ends_at - view.started_at, ""
    if view.gpu_idle_since is not None:
        yield "GPU idle", now - view.gpu_idle_since, now - view.started_at, " of the job"
    if view.idle_since is not None and view.idle_stop_at is not None:
        yield "idle", now - view.idle_since, view.idle_stop_at - view.idle_since, ", then it stops"
