"""Routes for sessions: start, stop, show, policies, connections."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query

from broker.controller.api.dependencies import (
    Gone,
    Services,
    SessionName,
    Who,
    is_gateway,
    refuse_options,
    refuse_policies,
)
from broker.controller.sessions.guest_view import errors_for_guest, view_for_user
from broker.errors import RefusedError
from broker.schema.checks import CheckReport, CheckRequest
from broker.schema.connections import (
    ConnectionList,
    ConnectionReport,
    ConnectionsNoted,
    ResolveAnswer,
    ResolveRequest,
)
from broker.schema.services import SessionServices
from broker.schema.sessions import (
    ConnectPolicy,
    ContinuationChoice,
    ExtendRequest,
    FollowChoice,
    IdleChoice,
    JobList,
    RenameRequest,
    ResizeRequest,
    SessionList,
    SessionView,
    StartRequest,
    StopTime,
)
from broker.schema.site import EventList, LogText

MAX_WAIT_S = 300.0


def add_session_routes(app: FastAPI, services: Services) -> None:  # noqa: C901 - a list of paths, not branches
    sessions, connecting, policies = services.sessions, services.connect, services.policies

    @app.get("/v1/sessions")
    async def list_sessions(who: Who) -> SessionList:
        return SessionList(sessions=await sessions.all(who.user))

    @app.get("/v1/sessions/{name}")
    async def show_session(
        who: Who,
        name: SessionName,
        gone: Gone,
        *,
        after: Annotated[int | None, Query(ge=0)] = None,
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0,
        refresh: bool = False,
    ) -> SessionView:
        with errors_for_guest(name):
            return view_for_user(
                who.user, await sessions.show(who.user, name, after=after, wait=wait, refresh=refresh, gone=gone)
            )

    @app.post("/v1/sessions/{name}/start", status_code=202)
    async def start_session(who: Who, name: SessionName, request: StartRequest) -> SessionView:
        refuse_policies(who, request.persistence)
        refuse_options(who, *request.options, *request.defaults)
        with errors_for_guest(name):
            return view_for_user(who.user, await sessions.start(who.user, name, request))

    @app.put("/v1/sessions/{name}/continuation")
    async def set_continuation(who: Who, name: SessionName, choice: ContinuationChoice) -> SessionView:
        return await policies.set_continuation(who.user, name, choice)

    @app.put("/v1/sessions/{name}/idle")
    async def set_idle(who: Who, name: SessionName, choice: IdleChoice) -> SessionView:
        return await policies.set_idle(who.user, name, choice)

    @app.put("/v1/sessions/{name}/follow")
    async def set_follow(who: Who, name: SessionName, choice: FollowChoice) -> SessionView:
        return await services.upgrades.set_follow(who.user, name, choice.follow)

    @app.put("/v1/sessions/{name}/stop-time")
    async def set_stop_time(who: Who, name: SessionName, stop_time: StopTime) -> SessionView:
        return await policies.set_stop_time(who.user, name, stop_time)

    @app.post("/v1/sessions/{name}/extend")
    async def extend_job(who: Who, name: SessionName, request: ExtendRequest) -> SessionView:
        with errors_for_guest(name):
            return view_for_user(who.user, await services.extend.extend(who.user, name, request.seconds))

    @app.post("/v1/sessions/{name}/resize", status_code=202)
    async def resize_session(who: Who, name: SessionName, request: ResizeRequest) -> SessionView:
        return await services.resize.resize(who.user, name, request.options, request.present_job)

    @app.delete("/v1/sessions/{name}/resize")
    async def withdraw_resize(who: Who, name: SessionName) -> SessionView:
        return await services.resize.withdraw(who.user, name)

    @app.post("/v1/sessions/{name}/check")
    async def check_request(who: Who, name: SessionName, request: CheckRequest) -> CheckReport:
        refuse_options(who, *(request.resize.options if request.resize is not None else ()))
        return await services.request_checks.check(who.user, name, request)

    @app.post("/v1/sessions/{name}/rename", status_code=202)
    async def rename_session(who: Who, name: SessionName, request: RenameRequest) -> SessionView:
        return await services.rename.rename(who.user, name, request.name)

    @app.get("/v1/sessions/{name}/jobs")
    async def list_jobs(who: Who, name: SessionName) -> JobList:
        return JobList(jobs=await sessions.jobs(who.user, name))

    @app.get("/v1/sessions/{name}/services")
    async def list_services(who: Who, name: SessionName) -> SessionServices:
        return await services.offers.services(who.user, name)

    @app.patch("/v1/sessions/{name}/connecting")
    async def set_connecting(who: Who, name: SessionName, policy: ConnectPolicy) -> SessionView:
        return await policies.set_connect(who.user, name, policy)

    @app.post("/v1/sessions/{name}/stop", status_code=202)
    async def stop_session(who: Who, name: SessionName) -> SessionView:
        with errors_for_guest(name):
            return view_for_user(who.user, await sessions.stop(who.user, name))

    @app.delete("/v1/sessions/{name}", status_code=202)
    async def delete_session(who: Who, name: SessionName, purge: bool = False) -> SessionView:
        return await sessions.delete(who.user, name, purge=purge)

    @app.get("/v1/sessions/{name}/log")
    async def session_log(
        who: Who, name: SessionName, tail: Annotated[int, Query(alias="bytes", ge=1, le=2**20)] = 65536
    ) -> LogText:
        return LogText(text=await sessions.log(who.user, name, tail))

    @app.get("/v1/sessions/{name}/events")
    async def session_events(who: Who, name: SessionName, connections: bool = True) -> EventList:
        return EventList(events=await sessions.events(who.user, name, connections=connections))

    @app.get("/v1/events")
    async def all_events(who: Who, connections: bool = True) -> EventList:
        return EventList(events=await sessions.events(who.user, connections=connections))

    @app.get("/v1/sessions/{name}/connections")
    async def session_connections(
        who: Who, name: SessionName, ended: bool = False, terminals: bool = False
    ) -> ConnectionList:
        connections = services.connections
        found = await (connections.all(who.user, name) if ended else connections.open_connections(who.user, name))
        count = await connections.terminals(who.user, name) if terminals else None
        guests = await connections.guests(who.user, name)
        return ConnectionList(connections=found, guests=guests, terminals=count)

    @app.post("/v1/connections")
    async def note_connections(who: Who, report: ConnectionReport) -> ConnectionsNoted:
        caller = None if is_gateway(services, who) else who.user
        return ConnectionsNoted(noted=await services.connections.note(report, caller))

    @app.post("/v1/resolve", response_model_exclude_none=True)  # older gateways know no guests, and let none in
    async def resolve(who: Who, request: ResolveRequest, gone: Gone) -> ResolveAnswer:
        if request.user != who.user and not is_gateway(services, who):
            raise RefusedError(f"{who.user} cannot connect as {request.user}")
        return await connecting.connect(
            request.user,
            request.target,
            root=request.root,
            waited=request.waited,
            patient=request.patient,
            shown=request.shown,
            hold=request.hold,
            gone=gone,
        )
