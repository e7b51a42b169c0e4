"""The page with the form for a new session."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.routing import Route

from broker.errors import BerthError, InvalidInputError, LoggedOutError
from broker.forms.start_form import new_session_form, start_command, start_request
from broker.web.portal.form_fields import fill_form, profile_descriptions, resource_notes
from broker.web.portal.portal_context import none_if_failed, redirect, show_page, user_calls
from broker.web.portal.protection import read_form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import HTMLResponse, Response

    from broker.forms.form import Form
    from broker.web.portal.user_calls import UserCalls

_GROUPS = (
    ("What", ("name", "profile")),
    ("Resources", ("gpus", "cpus", "memory", "time")),
    ("Queue", ("partition", "account", "qos")),
)
_INCOMPLETE = ["berth", "start", "NAME", "--profile", "PROFILE"]


async def show_start(request: Request) -> Response:
    """Show the form, filled in with the fields of the address."""
    calls = user_calls(request)
    form, descriptions = await _form(calls)
    fill_form(form, request.query_params)
    return await _page(calls, form, descriptions)


async def start_session(request: Request) -> Response:
    """Start a new session, and lead to its page."""
    texts = await read_form(request)
    calls = user_calls(request)
    form, descriptions = await _form(calls)
    fill_form(form, texts)
    if errors := form.errors():
        return await _page(calls, form, descriptions, errors=errors)
    name = form.text("name")
    try:
        await calls.change(name, "start", start_request(form, {}))
    except LoggedOutError:
        raise
    except BerthError as error:
        return await _page(calls, form, descriptions, error=error)
    return redirect(f"/sessions/{name}?done=start")


async def _form(calls: UserCalls) -> tuple[Form, dict[str, str]]:
    """Return the form, and the descriptions of profiles. Without a list of profiles, it takes any name."""
    sessions, profiles = await asyncio.gather(calls.sessions(), none_if_failed(calls.profiles()))
    form = new_session_form(profiles, {view.name for view in sessions}, for_browser=True)
    return form, profile_descriptions(profiles)


async def _page(
    calls: UserCalls,
    form: Form,
    descriptions: Mapping[str, str],
    *,
    errors: Mapping[str, str] | None = None,
    error: BerthError | None = None,
) -> HTMLResponse:
    return await show_page(
        calls,
        "start.html",
        status=error.status if error is not None else InvalidInputError.status if errors else 200,
        current="/start",
        form=form,
        groups=_GROUPS,
        errors=errors or {},
        error=error,
        notes=await resource_notes(calls, form),
        descriptions=descriptions,
        command=_INCOMPLETE if form.errors() else start_command(form),
    )


START_ROUTES = [
    Route("/start", show_start, methods=["GET"]),
    Route("/start", start_session, methods=["POST"]),
]
