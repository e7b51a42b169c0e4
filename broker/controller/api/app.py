"""The HTTP API: each path checks its input's type, says who calls, and hands over to one function.
docs/architecture.md lists it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from broker import __version__
from broker.config.file import Mode
from broker.controller.api.peer_credentials import Caller, caller
from broker.controller.departure import departure
from broker.controller.metrics import OTHER, observe_request
from broker.errors import BerthError, InvalidInputError, NotFoundError, RefusedError, WaitingError
from broker.names import IDENTIFIER, NAME_PATTERN
from broker.schema import environments, volumes
from broker.schema.base import ErrorBody, SessionWait
from broker.schema.connections import (
    ConnectionList,
    ConnectionReport,
    ConnectionsNoted,
    GatewayWait,
    GatewayWaitAnswer,
    ResolveAnswer,
    ResolveRequest,
)
from broker.schema.login import (
    AuthorityKeyView,
    AuthorityKind,
    AuthorityList,
    CertificateAnswer,
    CertificateRequest,
    GatewayKeys,
    KeyAdd,
    KeyList,
    KeyView,
    RetireRequest,
    RotateRequest,
    UserCertificateAnswer,
    UserCertificateList,
    UserCertificateRequest,
)
from broker.schema.sessions import (
    ConnectPolicy,
    ContinuationChoice,
    DeletedList,
    ExtendRequest,
    IdleChoice,
    JobList,
    ResizeRequest,
    SessionList,
    SessionView,
    StartRequest,
    StopTime,
)
from broker.schema.site import DoctorCheck, DoctorReport, EventList, LogText, RebuildReport, SiteView

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from broker.config.settings import Config
    from broker.controller.credentials.authorized_keys import AuthorizedKeys
    from broker.controller.credentials.login import Logins
    from broker.controller.sessions.connect import Connecting
    from broker.controller.sessions.connections import Connections
    from broker.controller.sessions.deleted import Deleted
    from broker.controller.sessions.environments import Batch
    from broker.controller.sessions.extend import Extending
    from broker.controller.sessions.lifecycle import Sessions
    from broker.controller.sessions.policies import Policies
    from broker.controller.sessions.resize import Resizing
    from broker.controller.sessions.snapshots import Snapshots
    from broker.controller.site import Site

log = logging.getLogger(__name__)

LONGEST_WAIT = 300.0
LARGEST_BODY = 256 * 1024
"""Bytes of one request; the largest one, a start with all options that slurm.sbatch takes, has 66,000."""

Who = Annotated[Caller, Depends(caller)]
Gone = Annotated[asyncio.Event, Depends(departure)]
"""The event that ends a call that waits."""
SessionName = Annotated[str, Path(pattern=NAME_PATTERN)]
EnvironmentId = Annotated[str, Path(pattern=f"^{IDENTIFIER.pattern}$")]


@dataclass(frozen=True, slots=True)
class Services:
    """What the paths hand over to."""

    config: Config
    sessions: Sessions
    connecting: Connecting
    policies: Policies
    extending: Extending
    resizing: Resizing
    connections: Connections
    snapshots: Snapshots
    deleted: Deleted
    batch: Batch
    keys: AuthorizedKeys
    logins: Logins
    site: Site
    checks: Callable[[str], Awaitable[list[DoctorCheck]]]
    """For the user who asks."""
    rebuild: Callable[[], Awaitable[RebuildReport]]
    in_use: Callable[[], AbstractContextManager[None]]
    """Entered for every request: the controller is in use."""
    own_uid: int


def application(services: Services) -> FastAPI:
    """The application; its OpenAPI document is at /openapi.json."""
    failures: dict[int | str, dict[str, Any]] = {status: {"model": ErrorBody} for status in (422, "default")}
    app = FastAPI(title="Berth", version=__version__, docs_url=None, redoc_url=None, responses=failures)
    app.state.stopping = asyncio.Event()
    app.state.only_uid = services.own_uid if services.config.mode is Mode.PERSONAL else None
    app.add_exception_handler(BerthError, _berth_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(Exception, _unexpected)

    _add_session_paths(app, services)
    _add_volume_paths(app, services)
    _add_root_paths(app, services)
    _add_deleted_paths(app, services)
    _add_batch_paths(app, services)
    _add_key_paths(app, services)
    _add_certificate_paths(app, services)
    _add_gateway_paths(app, services)
    _add_site_paths(app, services)
    methods = frozenset().union(*(getattr(route, "methods", None) or () for route in app.routes))
    app.add_middleware(_Doorkeeper, in_use=services.in_use, methods=methods)
    return app


class _Doorkeeper:
    """Notes who uses the controller how, and turns away a body that is too large before a byte of it is kept."""

    def __init__(
        self, app: ASGIApp, in_use: Callable[[], AbstractContextManager[None]], methods: frozenset[str]
    ) -> None:
        """`methods`: those of all routes, which have series of their own."""
        self._app = app
        self._in_use = in_use
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with self._in_use():
                await self._admit(scope, receive, noting)
        except Exception:
            status = status or 500
            raise
        finally:
            # The route's own pattern and methods: a client may have asked for anything.
            path = getattr(scope.get("route"), "path", OTHER)
            method = scope["method"] if scope["method"] in self._methods else OTHER
            observe_request(method, path, status, time.monotonic() - began)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if "transfer-encoding" in headers or int(headers.get("content-length", 0)) > LARGEST_BODY:
            refusal = InvalidInputError(f"a request's body must tell its length, of at most {LARGEST_BODY} bytes")
            await _answer(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _add_session_paths(app: FastAPI, services: Services) -> None:  # noqa: C901 - a list of paths, not branches
    sessions, connecting, policies = services.sessions, services.connecting, services.policies

    @app.get("/v1/sessions")
    async def list_sessions(who: Who) -> SessionList:
        return SessionList(sessions=await sessions.all(who.user))

    @app.get("/v1/sessions/{name}")
    async def show_session(
        who: Who,
        name: SessionName,
        gone: Gone,
        after: Annotated[int | None, Query(ge=0)] = None,
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0,
    ) -> SessionView:
        return await sessions.show(who.user, name, after=after, wait=wait, gone=gone)

    @app.post("/v1/sessions/{name}/start", status_code=202)
    async def start_session(who: Who, name: SessionName, request: StartRequest) -> SessionView:
        return await sessions.start(who.user, name, request)

    @app.put("/v1/sessions/{name}/continuation")
    async def set_continuation(who: Who, name: SessionName, choice: ContinuationChoice) -> SessionView:
        return await policies.set_continuation(who.user, name, choice)

    @app.put("/v1/sessions/{name}/idle")
    async def set_idle(who: Who, name: SessionName, choice: IdleChoice) -> SessionView:
        return await policies.set_idle(who.user, name, choice)

    @app.put("/v1/sessions/{name}/stop-time")
    async def set_stop_time(who: Who, name: SessionName, stop_time: StopTime) -> SessionView:
        return await policies.set_stop_time(who.user, name, stop_time)

    @app.post("/v1/sessions/{name}/extend")
    async def extend_job(who: Who, name: SessionName, request: ExtendRequest) -> SessionView:
        return await services.extending.extend(who.user, name, request.seconds)

    @app.post("/v1/sessions/{name}/resize", status_code=202)
    async def resize_session(who: Who, name: SessionName, request: ResizeRequest) -> SessionView:
        return await services.resizing.resize(who.user, name, request.options)

    @app.get("/v1/sessions/{name}/jobs")
    async def list_jobs(who: Who, name: SessionName) -> JobList:
        return JobList(jobs=await sessions.jobs(who.user, name))

    @app.patch("/v1/sessions/{name}/connecting")
    async def set_connecting(who: Who, name: SessionName, policy: ConnectPolicy) -> SessionView:
        return await policies.set_connect(who.user, name, policy)

    @app.post("/v1/sessions/{name}/stop", status_code=202)
    async def stop_session(who: Who, name: SessionName) -> SessionView:
        return await sessions.stop(who.user, name)

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
    async def session_connections(who: Who, name: SessionName, ended: bool = False) -> ConnectionList:
        connections = services.connections
        found = connections.all(who.user, name) if ended else connections.standing(who.user, name)
        return ConnectionList(connections=await found)

    @app.post("/v1/connections")
    async def note_connections(who: Who, report: ConnectionReport) -> ConnectionsNoted:
        caller = None if _is_gateway(services, who) else who.user
        return ConnectionsNoted(noted=await services.connections.note(report, caller))

    @app.post("/v1/resolve")
    async def resolve(who: Who, request: ResolveRequest, gone: Gone) -> ResolveAnswer:
        if request.user != who.user and not _is_gateway(services, who):
            raise RefusedError(f"{who.user} cannot connect as {request.user}")
        return await connecting.connect(
            request.user,
            request.target,
            root=request.root,
            waited=request.waited,
            patient=request.patient,
            hold=request.hold,
            gone=gone,
        )


def _add_volume_paths(app: FastAPI, services: Services) -> None:  # noqa: C901 - a list of paths, not branches
    snapshots = services.snapshots

    @app.post("/v1/sessions/{name}/snapshots", status_code=202)
    async def take_snapshot(who: Who, name: SessionName, request: volumes.SnapshotRequest) -> SessionView:
        return await snapshots.snapshot(who.user, name, request)

    @app.get("/v1/sessions/{name}/snapshots")
    async def list_snapshots(who: Who, name: SessionName) -> volumes.SnapshotList:
        return volumes.SnapshotList(snapshots=await snapshots.snapshots(who.user, name))

    @app.delete("/v1/sessions/{name}/snapshots/{reference}")
    async def delete_snapshot(
        who: Who, name: SessionName, reference: Annotated[volumes.SnapshotReference, Path()]
    ) -> volumes.SnapshotView:
        return await snapshots.delete_snapshot(who.user, name, reference)

    @app.post("/v1/sessions/{name}/rollback", status_code=202)
    async def roll_back(who: Who, name: SessionName, request: volumes.RollbackRequest) -> SessionView:
        return await snapshots.rollback(who.user, name, request)

    @app.post("/v1/sessions/{name}/switch", status_code=202)
    async def switch_profile(who: Who, name: SessionName, request: volumes.SwitchRequest) -> SessionView:
        return await snapshots.switch(who.user, name, request)

    @app.post("/v1/sessions/{name}/clone", status_code=202)
    async def clone_session(who: Who, name: SessionName, request: volumes.CloneRequest) -> SessionView:
        return await snapshots.clone(who.user, name, request)

    @app.get("/v1/sessions/{name}/diff")
    async def session_diff(
        who: Who,
        name: SessionName,
        reference: Annotated[volumes.SnapshotReference | None, Query(alias="from")] = None,
        content: Annotated[bool, Query()] = False,
    ) -> volumes.DiffReport:
        return await snapshots.diff(who.user, name, reference, content=content)

    @app.get("/v1/sessions/{name}/size")
    async def session_size(who: Who, name: SessionName) -> volumes.SizeReport:
        return await snapshots.size(who.user, name)

    @app.post("/v1/sessions/{name}/verify")
    async def verify_session(who: Who, name: SessionName) -> volumes.VerifyReport:
        return await snapshots.verify(who.user, name)

    @app.post("/v1/sessions/{name}/flatten", status_code=202)
    async def flatten_session(who: Who, name: SessionName) -> SessionView:
        return await snapshots.flatten(who.user, name)


def _add_root_paths(app: FastAPI, services: Services) -> None:
    @app.post("/v1/sessions/{name}/root", status_code=202)
    async def begin_root_mode(who: Who, name: SessionName) -> SessionView:
        return await services.snapshots.root(who.user, name)

    @app.post("/v1/sessions/{name}/root/commit", status_code=202)
    async def commit_root_mode(who: Who, name: SessionName) -> SessionView:
        return await services.snapshots.commit_root(who.user, name)


def _add_deleted_paths(app: FastAPI, services: Services) -> None:
    deleted = services.deleted

    @app.get("/v1/deleted")
    async def list_deleted(who: Who) -> DeletedList:
        return DeletedList(sessions=await deleted.all(who.user))

    @app.post("/v1/deleted/{name}/restore", status_code=202)
    async def restore_session(who: Who, name: SessionName, request: volumes.RestoreRequest) -> SessionView:
        return await deleted.restore(who.user, name, request.name)

    @app.post("/v1/gc")
    async def collect_garbage(who: Who, request: volumes.GcRequest) -> volumes.GcReport:
        return await deleted.gc(who.user, dry_run=request.dry_run)


def _add_batch_paths(app: FastAPI, services: Services) -> None:
    batch = services.batch

    @app.get("/v1/environments")
    async def list_environments(who: Who) -> environments.EnvironmentList:
        return environments.EnvironmentList(environments=await batch.all(who.user))

    @app.post("/v1/environments", status_code=201)
    async def make_environment(who: Who, request: environments.EnvironmentRequest) -> environments.EnvironmentView:
        return await batch.make(who.user, request)

    @app.delete("/v1/environments/{environment}")
    async def discard_environment(who: Who, environment: EnvironmentId) -> environments.EnvironmentList:
        return environments.EnvironmentList(environments=await batch.discard(who.user, environment))

    @app.post("/v1/environments/{environment}/promote", status_code=202)
    async def promote_job(who: Who, environment: EnvironmentId, request: environments.PromoteRequest) -> SessionView:
        return await batch.promote(who.user, environment, request)


def _add_key_paths(app: FastAPI, services: Services) -> None:
    keys = services.keys

    @app.get("/v1/keys")
    async def list_keys(who: Who) -> KeyList:
        return KeyList(keys=await keys.views(who.user))

    @app.post("/v1/keys", status_code=201)
    async def add_key(who: Who, key: KeyAdd) -> KeyView:
        return await keys.add(who.user, key.public_key)

    @app.delete("/v1/keys/{fingerprint:path}")
    async def remove_key(who: Who, fingerprint: Annotated[str, Path(max_length=64)]) -> KeyView:
        return await keys.remove(who.user, fingerprint)


def _add_gateway_paths(app: FastAPI, services: Services) -> None:
    @app.get("/v1/gateway/keys/{user}", response_model_exclude_defaults=True)  # a gateway of before knows no notices
    async def gateway_keys(
        who: Who, user: Annotated[str, Path(max_length=64)], notices: bool = False, certificates: bool = False
    ) -> GatewayKeys:
        _require_gateway(services, who)
        told = await services.connecting.notices(user) if notices else []
        login = await services.logins.of(user)
        answer = GatewayKeys(user=user, keys=login.keys, notices=told)
        if certificates:
            answer = answer.model_copy(update={"authorities": login.authorities, "revoked": login.revoked})
        return answer

    @app.post("/v1/gateway/wait")
    async def gateway_wait(who: Who, request: GatewayWait, gone: Gone) -> GatewayWaitAnswer:
        _require_gateway(services, who)
        known = {each.session_id: each.revision for each in request.sessions}
        return GatewayWaitAnswer(changed=await services.connecting.changed(known, request.seconds, gone))

    @app.post("/v1/gateway/certificate")
    async def gateway_certificate(who: Who, request: CertificateRequest) -> CertificateAnswer:
        _require_gateway(services, who)
        return CertificateAnswer(certificate=services.site.certify_gateway(request.public_key))


def _add_site_paths(app: FastAPI, services: Services) -> None:
    @app.get("/v1/health")
    async def health() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/v1/site")
    async def site(who: Who) -> SiteView:
        return await services.site.view(who.user)

    @app.get("/v1/doctor")
    async def doctor(who: Who) -> DoctorReport:
        return DoctorReport(checks=await services.checks(who.user))

    @app.post("/v1/rebuild")
    async def rebuild(who: Who) -> RebuildReport:
        _require_operator(services, who)
        return await services.rebuild()


def _add_certificate_paths(app: FastAPI, services: Services) -> None:
    logins, site = services.logins, services.site

    @app.get("/v1/certificates")
    async def list_certificates(who: Who) -> UserCertificateList:
        return UserCertificateList(certificates=await logins.certificates(who.user))

    @app.post("/v1/certificates", status_code=201)
    async def sign_certificate(who: Who, request: UserCertificateRequest) -> UserCertificateAnswer:
        return await logins.sign(who.user, request.public_key, request.hours)

    @app.delete("/v1/certificates")
    async def revoke_certificates(
        who: Who, fingerprint: Annotated[str | None, Query(max_length=64)] = None
    ) -> UserCertificateList:
        return UserCertificateList(certificates=await logins.revoke(who.user, fingerprint))

    @app.get("/v1/ca")
    async def list_authorities(who: Who) -> AuthorityList:
        del who  # anybody may know them
        return AuthorityList(keys=site.authorities())

    @app.post("/v1/ca/{kind}/rotate")
    async def rotate_authority(who: Who, kind: AuthorityKind, request: RotateRequest) -> AuthorityKeyView:
        _require_operator(services, who)
        return site.rotate(kind, now=request.now)

    @app.post("/v1/ca/{kind}/retire")
    async def retire_authority(who: Who, kind: AuthorityKind, request: RetireRequest) -> AuthorityKeyView:
        _require_operator(services, who)
        return site.retire(kind, request.fingerprint, now=request.now)


def _require_operator(services: Services, who: Caller) -> None:
    if who.uid not in {0, services.own_uid}:
        raise RefusedError("this is for root and the service account", hint="ask the operators")


def _is_gateway(services: Services, who: Caller) -> bool:
    return services.config.gateway.enabled and who.user == services.config.gateway.account


def _require_gateway(services: Services, who: Caller) -> None:
    if not _is_gateway(services, who):
        raise RefusedError("only the gateway may ask this")


async def _berth_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BerthError)
    if error.status >= 500 and not isinstance(error, WaitingError):  # that one is an ordinary answer
        log.warning("%s: %s", type(error).__name__, error.message)
    return _answer(error)


def _answer(error: BerthError, status: int | None = None) -> JSONResponse:
    body = ErrorBody(reason=error.reason, message=error.message, hint=error.hint, waiting=_waiting(error))
    # Older programs do not know `waiting`, and never ask for it.
    return JSONResponse(body.model_dump(exclude_none=True), status_code=status or error.status)


def _waiting(error: BerthError) -> SessionWait | None:
    if not isinstance(error, WaitingError) or not error.session_id:
        return None
    return SessionWait(session_id=error.session_id, revision=error.revision, seconds=error.seconds)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses by itself: a path or method that is not there."""
    assert isinstance(error, HTTPException)
    kind = NotFoundError if error.status_code == NotFoundError.status else InvalidInputError
    return _answer(kind(f"{request.method} {request.scope['path']}: {error.detail}"), error.status_code)


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    named = first["type"] != "json_invalid"  # which tells a place in the text instead
    where = ".".join(str(part) for part in first["loc"][1:] if named) or "the request"
    return await _berth_error(
        request, InvalidInputError(f"{where}: {first['msg']}", hint=_NAME_HINT if where == "name" else "")
    )


_NAME_HINT = "a name has up to 39 lower-case letters, digits and hyphens and begins with a letter"


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return await _berth_error(
        request, BerthError("the controller failed at this request", hint="its log has the cause")
    )
