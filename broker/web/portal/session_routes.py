"""Pages that show sessions: all of them, and one with its snapshots, history and log."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse
from starlette.routing import Route

from broker.errors import BerthError, LoggedOutError
from broker.schema.states import SessionState
from broker.text.advice import describe_last_end
from broker.text.session import session_page
from broker.text.sharing import describe_guests
from broker.text.timeline import timeline_scale
from broker.text.volume import snapshot_row
from broker.web.portal.portal_context import context_of, none_if_failed, show_page, user_calls
from broker.web.portal.session_actions import ACTIONS
from broker.web.portal.session_view import TIMELINE_CELLS, ide_links, job_bars, summarize
from broker.web.portal.templates import render

if TYPE_CHECKING:
    from starlette.requests import Request

    from broker.origins import Origins
    from broker.schema.services import SessionServiceView
    from broker.schema.sessions import SessionView
    from broker.web.portal.user_calls import UserCalls

ICONS = frozenset({"terminal", "notebook", "code", "chart", "web"})
"""The icons of services that the portal has."""
_REPEATED = frozenset({"state", "ssh"})
"""Rows of `berth show` that the page shows elsewhere."""


async def list_sessions(request: Request) -> HTMLResponse:
    """Show all sessions of the user, and the services of others that are shared with the user."""
    calls = user_calls(request)
    now = time.time()
    views, shared = await asyncio.gather(calls.sessions(), none_if_failed(calls.shared_services()))
    sessions, origins = [summarize(view, now) for view in views], context_of(request).origins
    return await show_page(
        calls,
        "sessions.html",
        sessions=sessions,
        shared=[(each, f"{origins.url(each.host)}/") for each in shared or []],
        current="/",
        command=["berth", "list"],
    )


async def show_session(request: Request) -> HTMLResponse:
    """Show one session: its state, services, actions, addresses and details."""
    calls = user_calls(request)
    view, site = await asyncio.gather(calls.session(request.path_params["name"]), calls.site())
    (services, services_error), log_end, guests = await asyncio.gather(
        _services(calls, view), _log_end(calls, view), _guests(calls, view)
    )
    now = time.time()
    page = render(
        "session.html",
        site=site,
        summary=summarize(view, now),
        services=[_service_link(context_of(request).origins, view, each) for each in services],
        services_error=services_error,
        log_end=log_end,
        guests=guests,
        actions=[action for action in ACTIONS.values() if action.rule(view) is None],
        ides=ide_links(view, site),
        details=[
            (title, text)
            for title, text in session_page(view, site.domain, now, site.profile_stores)
            if title not in _REPEATED
        ],
        notice=_notice(request.query_params.get("done", "")),
        command=["berth", "show", view.name],
    )
    return HTMLResponse(page)


async def _services(calls: UserCalls, view: SessionView) -> tuple[list[SessionServiceView], BerthError | None]:
    """Return the services, or the error in place of them: the page shows everything else."""
    try:
        return await calls.services(view.name), None
    except LoggedOutError:
        raise
    except BerthError as error:
        return [], error


async def _guests(calls: UserCalls, view: SessionView) -> list[str]:
    """Return which guests are in the session, each with the role."""
    presence = await none_if_failed(calls.presence(view.name))
    return [] if presence is None else describe_guests(presence, time.time())


async def _log_end(calls: UserCalls, view: SessionView) -> list[str]:
    """Return the last lines of the log of a failed session, to which its advice refers."""
    log = await none_if_failed(calls.log(view.name)) if view.state is SessionState.FAILED else None
    return describe_last_end(log) if log else []


def _service_link(origins: Origins, view: SessionView, service: SessionServiceView) -> dict[str, str]:
    host = origins.service_host(service.name, view.name, view.id, view.owner)
    icon = service.icon if service.icon in ICONS else "web"
    return service.model_dump() | {"url": f"{origins.url(host)}/", "icon": icon}


def _notice(done: str) -> str:
    """Return the text after an action; `done` is its id, from the address."""
    action = ACTIONS.get(done)
    return "" if action is None else f"{action.title}: the request was accepted. The state below changes by itself."


async def show_snapshots(request: Request) -> HTMLResponse:
    """Show the snapshots of a session."""
    calls, name = user_calls(request), request.path_params["name"]
    view, snapshots = await asyncio.gather(calls.session(name), calls.snapshots(name))
    now = time.time()
    return await show_page(
        calls,
        "snapshots.html",
        summary=summarize(view, now),
        rows=[snapshot_row(snapshot, now) for snapshot in snapshots],
        command=["berth", "snapshots", name],
    )


async def show_history(request: Request) -> HTMLResponse:
    """Show the jobs of a session as a timeline, and its events, both with the latest first."""
    calls, name = user_calls(request), request.path_params["name"]
    view, jobs, events = await asyncio.gather(calls.session(name), calls.jobs(name), calls.events(name))
    now = time.time()
    return await show_page(
        calls,
        "history.html",
        summary=summarize(view, now),
        scale=timeline_scale(jobs, now),
        bars=job_bars(jobs, now),
        cells=TIMELINE_CELLS,
        events=events[::-1],
        command=["berth", "history", name],
    )


async def show_log(request: Request) -> HTMLResponse:
    """Show the end of the log of a session's jobs."""
    calls, name = user_calls(request), request.path_params["name"]
    view, log = await asyncio.gather(calls.session(name), calls.log(name))
    return await show_page(
        calls, "log.html", summary=summarize(view, time.time()), log=log, command=["berth", "logs", name]
    )


SESSION_ROUTES = [
    Route("/", list_sessions, methods=["GET"]),
    Route("/sessions/{name}", show_session, methods=["GET"]),
    Route("/sessions/{name}/snapshots", show_snapshots, methods=["GET"]),
    Route("/sessions/{name}/history", show_history, methods=["GET"]),
    Route("/sessions/{name}/log", show_log, methods=["GET"]),
]
