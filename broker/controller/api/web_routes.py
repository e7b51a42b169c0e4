"""Routes for web access: links and browsers of users, and the requests of berth-web."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import FastAPI, Path, Request
from fastapi.responses import StreamingResponse

from broker.config.file import Mode
from broker.controller.api.dependencies import Delegate, Services, Who
from broker.controller.api.watch_routes import STREAM_ANSWER, StreamResponse
from broker.controller.web.web_access import WebAccess
from broker.errors import RefusedError
from broker.names import IDENTIFIER
from broker.schema.oidc import (
    ProviderAnswer,
    ProviderLogin,
    ProviderLoginRequest,
    ProviderLogout,
    ProviderLogoutAnswer,
)
from broker.schema.web import (
    WATCH_STREAMS_PATH,
    WATCHES_PATH,
    BrowserList,
    BrowserWatchAnswer,
    BrowserWatchRequest,
    DelegationAnswer,
    DelegationRequest,
    DoorAnswer,
    DoorRequest,
    LinkAnswer,
    LinkRequest,
    LoginPreview,
    LogoutAnswer,
    ValidVisits,
    VisitAnswer,
    VisitCheck,
    VisitRequest,
    WatchEnded,
    WatchStreamRequest,
)

if TYPE_CHECKING:
    from broker.controller.web.oidc.logins import ProviderLogins

BrowserId = Annotated[str, Path(pattern=f"^{IDENTIFIER.pattern}$")]
WatchId = Annotated[str, Path(pattern=f"^{IDENTIFIER.pattern}$")]


def add_web_routes(app: FastAPI, services: Services) -> None:
    @app.post("/v1/web/links", status_code=201)
    async def make_link(who: Who, request: LinkRequest) -> LinkAnswer:
        return await _web(services).browsers.make_link(who.user, who.uid, request)

    @app.get("/v1/web/browsers")
    async def list_browsers(who: Who) -> BrowserList:
        return BrowserList(browsers=await _web(services).browsers.views(who.user, who.delegation))

    @app.delete("/v1/web/browsers")
    async def log_out_browsers(who: Who) -> LogoutAnswer:
        return await _web(services).browsers.log_out_all(who.user)

    @app.delete("/v1/web/browsers/{browser}")
    async def log_out_browser(who: Who, browser: BrowserId) -> LogoutAnswer:
        return await _web(services).browsers.log_out(who.user, browser)

    @app.delete("/v1/web/delegation")
    async def end_delegation(delegate: Delegate) -> LogoutAnswer:
        return await _web(services).browsers.log_out(delegate.user, delegate.id)

    @app.post("/v1/web/visits", status_code=201)
    async def begin_visit(delegate: Delegate, request: VisitRequest) -> VisitAnswer:
        return await _web(services).visits.begin(delegate, request)

    @app.post(WATCHES_PATH, status_code=201)
    async def watch_for_browser(delegate: Delegate, request: BrowserWatchRequest) -> BrowserWatchAnswer:
        return await _web(services).watches.add(delegate, request)


def add_berth_web_routes(app: FastAPI, services: Services) -> None:
    """Add the routes that only berth-web may call: `route_access.BERTH_WEB`."""

    @app.post("/v1/web/links/check")
    async def check_link(who: Who, request: DelegationRequest) -> LoginPreview:
        del who
        return _web(services).browsers.preview(request)

    @app.post("/v1/web/delegations", status_code=201)
    async def make_delegation(who: Who, request: DelegationRequest) -> DelegationAnswer:
        del who
        return await _web(services).browsers.log_in(request)

    @app.post("/v1/web/provider/logins", status_code=201)
    async def begin_provider_login(who: Who, request: ProviderLoginRequest) -> ProviderLogin:
        del who
        return await _provider(services).begin(request)

    @app.post("/v1/web/provider/delegations", status_code=201)
    async def complete_provider_login(who: Who, request: ProviderAnswer) -> DelegationAnswer:
        del who
        return await _provider(services).complete(request)

    @app.post("/v1/web/provider/logout")
    async def end_provider_logins(who: Who, request: ProviderLogout) -> ProviderLogoutAnswer:
        del who
        return await _provider(services).log_out(request)

    @app.post("/v1/web/door")
    async def open_door(who: Who, request: DoorRequest) -> DoorAnswer:
        del who
        return await _web(services).door.open(request)

    @app.post("/v1/web/visits/check")
    async def check_visits(who: Who, request: VisitCheck) -> ValidVisits:
        del who
        return await _web(services).visits.check(request)

    @app.post(WATCH_STREAMS_PATH, response_class=StreamingResponse, response_model=None, responses=STREAM_ANSWER)
    async def stream_to_berth_web(who: Who, http: Request, request: WatchStreamRequest) -> StreamResponse:
        del who
        watches = _web(services).watches
        events = watches.open(request.id).events(http.app.state.stopping)
        return StreamResponse(events, watches.heartbeat, lambda: watches.close(request.id))

    @app.delete(f"{WATCHES_PATH}/{{watch}}")
    async def end_watch(who: Who, watch: WatchId) -> WatchEnded:
        del who
        return WatchEnded(ended=_web(services).watches.remove(watch))


def _web(services: Services) -> WebAccess:
    if services.web is not None:
        return services.web
    where = "personal mode" if services.config.mode is Mode.PERSONAL else "this site"
    raise RefusedError(
        f"{where} has no web access",
        hint="`berth open NAME SERVICE --local` opens a service in the browser of this machine",
    )


def _provider(services: Services) -> ProviderLogins:
    provider = _web(services).provider
    if provider is None:
        raise RefusedError(
            "this site has no logins by OpenID Connect", hint="`berth portal` prints a link that logs in"
        )
    return provider
