"""Logging in by a link or its code, logging out, and the way from the portal to the origin of a service."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pydantic import ValidationError
from starlette.responses import HTMLResponse
from starlette.routing import Route

from broker.errors import BerthError, InvalidInputError, LoggedOutError, NotFoundError, RefusedError
from broker.schema.web import DelegationRequest
from broker.web.local_paths import is_local_path, local_path
from broker.web.portal.addresses import check_service_host
from broker.web.portal.browser_facts import read_address, read_browser
from broker.web.portal.login_cookie import clear_login, read_login, set_login
from broker.web.portal.login_page import login_page
from broker.web.portal.portal_context import context_of, redirect, user_calls
from broker.web.portal.protection import read_form
from broker.web.portal.templates import render
from broker.web.portal.user_calls import UserCalls

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from broker.schema.web import DelegationAnswer, Target

_ENTRY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LOGGED_OUT = {
    "yes": "This browser is logged out.",
    "later": "This browser is logged out. Open pages of services are closed within a minute.",
}


async def show_login(request: Request) -> Response:
    """Show the form for a code. A script sends the secret of a link, which is in the fragment, with the same form."""
    next_path = local_path(request.query_params.get("next", "/"))
    return login_page(request, next_path, notice=_LOGGED_OUT.get(request.query_params.get("out", ""), ""))


async def confirm_login(request: Request) -> Response:
    """Show whose login a proof is, and ask: anybody can send anybody a link that is the sender's own login."""
    form = await read_form(request)
    next_path = local_path(form.get("next", "/"))
    try:
        delegation = _delegation_request(request, form.get("proof", ""))
        preview = await context_of(request).controller.preview_login(delegation)
    except BerthError as error:
        return login_page(request, next_path, error=error)
    replaces = bool(read_login(request))
    return HTMLResponse(
        render("confirm_login.html", next=next_path, proof=delegation.proof, login=preview, replaces=replaces)
    )


async def log_in(request: Request) -> Response:
    """Exchange the proof for a delegation, and lead the browser to the page or service that it wanted."""
    form = await read_form(request)
    next_path = local_path(form.get("next", "/"))
    try:
        delegation = await context_of(request).controller.delegate(_delegation_request(request, form.get("proof", "")))
    except BerthError as error:
        return login_page(request, next_path, error=error)
    response = redirect(await _address_after_login(request, delegation, next_path))
    set_login(response, delegation)
    return response


def _delegation_request(request: Request, proof: str) -> DelegationRequest:
    try:
        return DelegationRequest(
            proof="".join(proof.split()), browser=read_browser(request), address=read_address(request)
        )
    except ValidationError as error:
        raise InvalidInputError(
            "this is not a code", hint="a code has ten letters and digits; `berth portal` prints one"
        ) from error


async def _address_after_login(request: Request, delegation: DelegationAnswer, next_path: str) -> str:
    """Return the address of the link's service, or the page that the browser wanted."""
    if delegation.target is None:
        return next_path
    context = context_of(request)
    try:
        return await _service_url(request, UserCalls(context.controller, delegation.secret), delegation.target)
    except BerthError:  # the page says why
        return "/" if "." in delegation.target.session else f"/sessions/{delegation.target.session}"


async def _service_url(request: Request, calls: UserCalls, target: Target) -> str:
    """Return the address of a service. NotFoundError for one of another user that is shared no more."""
    origins = context_of(request).origins
    if "." in target.session:
        shared = {(each.session, each.service): each.host for each in await calls.shared_services()}
        host = shared.get((target.session, target.service))
        if host is None:
            raise NotFoundError(f"{target.service} of {target.session} is not shared with you")
        return origins.url(host) + "/"
    view = await calls.session(target.session)
    return origins.url(origins.service_host(target.service, view.name, view.id, view.owner)) + "/"


async def log_out(request: Request) -> Response:
    """End this browser's delegation."""
    closed = True
    if read_login(request):
        with contextlib.suppress(LoggedOutError):
            closed = (await user_calls(request).log_out()).closed
    response = redirect(f"/login?out={'yes' if closed else 'later'}")
    clear_login(response)
    return response


async def open_service(request: Request) -> Response:
    """Lead a browser from the origin of a service, where it has no grant, back there with a code for one use."""
    if request.headers.get("sec-fetch-dest", "document") != "document":
        raise RefusedError("a service is opened by a page of its own, not inside another one")
    context, query = context_of(request), request.query_params
    host, path, entry = query.get("host", ""), query.get("path", "/"), query.get("entry", "")
    check_service_host(context.origins, host)
    if not is_local_path(path) or not _ENTRY.fullmatch(entry):
        raise InvalidInputError("the address is incomplete", hint="open the service from the page of its session")
    visit = await user_calls(request).visit(host)
    code = context.entrances.admit(visit, entry)
    return redirect(f"{context.origins.url(visit.host)}/.berth/enter?{urlencode({'code': code, 'path': path})}")


LOGIN_ROUTES = [
    Route("/login", show_login, methods=["GET"]),
    Route("/login/check", confirm_login, methods=["POST"]),
    Route("/login", log_in, methods=["POST"]),
    Route("/logout", log_out, methods=["POST"]),
    Route("/open", open_service, methods=["GET"]),
]
