"""Calls of the API for the pages, as the user of a browser's delegation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from broker.errors import NotFoundError
from broker.forms.start_form import ProfileChoice
from broker.names import IDENTIFIER, NAME_PATTERN
from broker.schema.checks import CheckReport, CheckRequest
from broker.schema.cluster import ClusterView
from broker.schema.connections import ConnectionList
from broker.schema.grants import SharedServiceList
from broker.schema.login import KeyList
from broker.schema.profiles import ProfileList
from broker.schema.services import SessionServices
from broker.schema.sessions import JobList, SessionList, SessionView
from broker.schema.site import EventList, LogText, SiteView
from broker.schema.volumes import SnapshotList
from broker.schema.web import BrowserList, LogoutAnswer, VisitRequest

if TYPE_CHECKING:
    from pydantic import BaseModel

    from broker.schema.grants import SharedService
    from broker.schema.login import KeyView
    from broker.schema.services import SessionServiceView
    from broker.schema.sessions import JobView
    from broker.schema.site import EventView
    from broker.schema.volumes import SnapshotView
    from broker.schema.web import BrowserView, VisitAnswer
    from broker.web.controller_client import WebControllerClient

    _Answer = TypeVar("_Answer", bound=BaseModel)

LOG_BYTES = 65536


class UserCalls:
    """Each call returns the controller's answer or raises its error, LoggedOutError if the delegation has ended."""

    def __init__(self, controller: WebControllerClient, delegation: str) -> None:
        self._controller = controller
        self._delegation = delegation

    async def site(self) -> SiteView:
        return await self._get("/v1/site", SiteView)

    async def cluster(self) -> ClusterView:
        return await self._get("/v1/cluster", ClusterView)

    async def profiles(self) -> list[ProfileChoice]:
        """Return the profiles that the user can start."""
        found = (await self._get("/v1/profiles", ProfileList)).profiles
        return [ProfileChoice(each.name, each.version, each.owner, each.description, each.newest) for each in found]

    async def sessions(self) -> list[SessionView]:
        return (await self._get("/v1/sessions", SessionList)).sessions

    async def session(self, name: str) -> SessionView:
        return await self._get(_session(name), SessionView)

    async def services(self, name: str) -> list[SessionServiceView]:
        """Return the services that the session's profile declares."""
        return (await self._get(f"{_session(name)}/services", SessionServices)).services

    async def snapshots(self, name: str) -> list[SnapshotView]:
        return (await self._get(f"{_session(name)}/snapshots", SnapshotList)).snapshots

    async def jobs(self, name: str) -> list[JobView]:
        return (await self._get(f"{_session(name)}/jobs", JobList)).jobs

    async def events(self, name: str) -> list[EventView]:
        return (await self._get(f"{_session(name)}/events", EventList)).events

    async def presence(self, name: str) -> ConnectionList:
        """Return the open connections, and guests in browsers."""
        return await self._get(f"{_session(name)}/connections", ConnectionList)

    async def shared_services(self) -> list[SharedService]:
        """Return the services of others' sessions that the user may open."""
        return (await self._get("/v1/shared/services", SharedServiceList)).services

    async def log(self, name: str) -> str:
        """Return the end of the log of the session's jobs."""
        return (await self._get(f"{_session(name)}/log?bytes={LOG_BYTES}", LogText)).text

    async def change(self, name: str, change: str, body: BaseModel | None = None) -> SessionView:
        """Send a request such as `stop`, `extend` or `snapshots` for the session."""
        return await self._post(f"{_session(name)}/{change}", SessionView, body)

    async def check(self, name: str, request: CheckRequest) -> CheckReport:
        """Return what the request would do; raises the error with which it would be refused."""
        return await self._post(f"{_session(name)}/check", CheckReport, request)

    async def keys(self) -> list[KeyView]:
        return (await self._get("/v1/keys", KeyList)).keys

    async def browsers(self) -> list[BrowserView]:
        return (await self._get("/v1/web/browsers", BrowserList)).browsers

    async def end_browser(self, browser_id: str) -> LogoutAnswer:
        """Log one of the user's browsers out."""
        if not IDENTIFIER.fullmatch(browser_id):
            raise NotFoundError("there is no such browser")
        path = f"/v1/web/browsers/{browser_id}"
        return await self._controller.call("DELETE", path, LogoutAnswer, delegation=self._delegation)

    async def end_all_browsers(self) -> LogoutAnswer:
        """Log all of the user's browsers out, also this one."""
        return await self._controller.call("DELETE", "/v1/web/browsers", LogoutAnswer, delegation=self._delegation)

    async def log_out(self) -> LogoutAnswer:
        """Log this browser out."""
        return await self._controller.log_out(self._delegation)

    async def visit(self, host: str) -> VisitAnswer:
        """Open the service whose origin has this host name."""
        return await self._controller.visit(self._delegation, VisitRequest(host=host))

    async def _get(self, path: str, answer: type[_Answer]) -> _Answer:
        return await self._controller.call("GET", path, answer, delegation=self._delegation)

    async def _post(self, path: str, answer: type[_Answer], body: BaseModel | None) -> _Answer:
        return await self._controller.call("POST", path, answer, body, delegation=self._delegation)


def _session(name: str) -> str:
    """Return the path of a session. `name` is from the browser: without the check, `..` would be another path."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise NotFoundError("there is no session of this name", hint="the page of all sessions lists yours")
    return f"/v1/sessions/{name}"
