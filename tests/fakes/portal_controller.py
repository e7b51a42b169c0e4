"""A controller for the portal that answers from memory: sessions of alice, and refusals that a test scripts."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from broker.errors import BerthError, ControllerUnavailableError, LoggedOutError, NotFoundError
from broker.schema.sessions import SessionState, SessionView
from broker.schema.web import WATCH_STREAMS_PATH, WATCHES_PATH
from broker.web.controller_client import WebControllerClient
from tests.fakes.cluster import cluster_view
from tests.fakes.controller import view

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from broker.schema.web import WatchStreamRequest

_Answer = TypeVar("_Answer", bound=BaseModel)

SECRET = "s" * 43
BROWSER_ID = "0" * 26
PROVIDER_URL, PROVIDER_SECRET = "https://login.example.org/auth?state=x", "p" * 43
SESSION_ID = "01" + "a" * 24


class FakePortalController(WebControllerClient):
    """Answers the portal's calls. `failures` maps method and path to errors; `calls` has what was asked."""

    def __init__(self) -> None:
        super().__init__(Path("/nonexistent"))
        self.sessions: dict[str, SessionView] = {}
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.failures: dict[tuple[str, str], BerthError] = {}
        self.answers: dict[tuple[str, str], dict[str, Any]] = {}
        """Answers in place of the usual ones."""
        self.watch_calls: list[tuple[str, str, dict[str, Any]]] = []
        """Calls about watches, which pages send by themselves."""
        self.delegations = {SECRET}
        self.target: dict[str, str] | None = None
        self.shared: list[dict[str, Any]] = []
        """Services that others share with the user."""
        self.guests: list[dict[str, Any]] = []
        """Guests in browsers of each session."""
        self.closed = True
        self.events: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
        """The events of the stream for all watches, as kind and data; None ends the stream."""
        self.streams = 0
        self.watches: list[str] = []
        """The ids of the watches in the present stream."""
        self._stream_id = ""
        self._is_watched = asyncio.Event()

    def add(self, name: str, state: SessionState = SessionState.READY, **values: object) -> SessionView:
        """Add a session; a ready one has an endpoint."""
        if state is SessionState.READY:
            values = {
                "endpoint": {"node": "c1", "port": 2222, "fingerprint": "SHA256:x"},
                "job_id": 7,
                "generation": "2.0",
            } | values
        self.sessions[name] = view(name, state, **({"id": SESSION_ID} | values))
        return self.sessions[name]

    async def call(
        self, method: str, path: str, answer: type[_Answer], body: BaseModel | None = None, *, delegation: str = ""
    ) -> _Answer:
        sent = {} if body is None else body.model_dump(mode="json", exclude_defaults=True)
        (self.watch_calls if path.startswith(WATCHES_PATH) else self.calls).append((method, path, sent))
        is_own = path in _WITHOUT_LOGIN or path.startswith(f"{WATCHES_PATH}/")
        if not is_own and delegation not in self.delegations:
            raise LoggedOutError("this browser is not logged in", hint="`berth portal` prints a link that logs it in")
        if failure := self.failures.get((method, path)):
            raise failure
        record = self.answers.get((method, path)) or self._answer(method, path, sent, delegation)
        return answer.model_validate_json(json.dumps(record))

    async def _call(
        self, method: str, path: str, answer: type[_Answer], body: BaseModel | None, delegation: str = ""
    ) -> _Answer:
        return await self.call(method, path, answer, body, delegation=delegation)

    def sent(self, method: str) -> list[tuple[str, dict[str, Any]]]:
        """Return paths and bodies of the calls with this method."""
        return [(path, body) for called, path, body in self.calls if called == method]

    def _answer(self, method: str, path: str, body: dict[str, Any], delegation: str) -> dict[str, Any]:
        if found := re.fullmatch(r"/v1/sessions/([a-z0-9-]+)(?:/([a-z]+))?(?:\?.*)?", path):
            return self._session_answer(method, found[1], found[2] or "", body)
        if path == WATCHES_PATH:
            return self._watch(body)
        if method == "DELETE" and path.startswith(WATCHES_PATH):
            self.watches.remove(path.rpartition("/")[2])
            return {"ended": True}
        if method == "DELETE":
            if path == "/v1/web/delegation":
                self.delegations.discard(delegation)
            return {"ended": [_BROWSER], "closed": self.closed}
        sessions = [each.model_dump(mode="json") for each in self.sessions.values()]
        login = {"id": BROWSER_ID, "secret": SECRET, "user": "alice", "expires_at": 4e9, "target": self.target}
        answers: dict[str, dict[str, Any]] = {
            "/v1/sessions": {"sessions": sessions},
            "/v1/shared/services": {"services": self.shared},
            "/v1/site": _SITE,
            "/v1/cluster": cluster_view().model_dump(mode="json"),
            "/v1/profiles": {"profiles": _PROFILES},
            "/v1/keys": {"keys": [_KEY]},
            "/v1/web/browsers": {"browsers": [_BROWSER]},
            "/v1/web/links/check": {"user": "alice", "target": self.target},
            "/v1/web/delegations": login,
            "/v1/web/provider/logins": {"url": PROVIDER_URL, "secret": PROVIDER_SECRET, "expires_at": 4e9},
            "/v1/web/provider/delegations": login,
            "/v1/web/provider/logout": {"ended": 1, "closed": self.closed},
            "/v1/web/visits": _VISIT | {"host": body.get("host")},
        }
        return answers[path]

    def _session_answer(self, method: str, name: str, part: str, body: dict[str, Any]) -> dict[str, Any]:
        if method == "POST" and part == "start" and name not in self.sessions:
            self.add(name, SessionState.QUEUED)
        if name not in self.sessions:
            raise NotFoundError(f"you have no session {name}", hint="`berth list` shows your sessions")
        record = self.sessions[name].model_dump(mode="json")
        if method == "POST":
            preview = _PREVIEW if "switch" in body else None
            return {"session": record, "ends_job": True, "switch": preview} if part == "check" else record
        return {
            "": record,
            "services": {"services": _SERVICES},
            "snapshots": {"snapshots": _SNAPSHOTS},
            "jobs": {"jobs": _JOBS},
            "events": {"events": [{"at": 1.79e9, "actor": "alice", "session": name, "action": "start"}]},
            "connections": {"connections": [], "guests": self.guests},
            "log": {"text": "12:00:00 berth: job 7 begins\n"},
        }[part]

    def _watch(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["stream"] != self._stream_id:
            raise NotFoundError("there is no such stream")
        self.watches.append(body["id"])
        self._is_watched.set()
        return {"delegation_id": BROWSER_ID, "expires_at": 4e9}

    @asynccontextmanager
    async def stream(self, request: WatchStreamRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        if failure := self.failures.get(("POST", WATCH_STREAMS_PATH)):
            raise failure
        self.streams += 1
        self._stream_id = request.id
        try:
            yield self._chunks()
        finally:
            self.streams -= 1
            self._stream_id = ""
            self.watches.clear()
            self._is_watched.clear()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while event := await self.events.get():
            kind, data = event
            await self._is_watched.wait()
            for watch in self.watches:
                yield f"event: {kind}\ndata: {json.dumps({'watch': watch} | data)}\n\n".encode()
        raise ControllerUnavailableError("the stream has ended")


_WITHOUT_LOGIN = {
    "/v1/web/delegations",
    "/v1/web/links/check",
    "/v1/web/provider/logins",
    "/v1/web/provider/delegations",
    "/v1/web/provider/logout",
}
_SITE = {
    "user": "alice",
    "domain": "berth",
    "gateway_host": "gateway",
    "gateway_port": 2222,
    "login_host": "login",
    "ca_public_keys": [],
    "mode": "site",
}
_PROFILES = [
    {"name": "base", "version": "2", "owner": "site", "description": "A small Debian system", "newest": True},
    {"name": "base", "version": "1", "owner": "site", "description": "A small Debian system", "newest": False},
    {"name": "triton-xpu", "version": "4", "owner": "site", "description": "Triton for Intel GPUs", "newest": True},
]
_SERVICES = [
    {"name": "terminal", "title": "Terminal", "description": "A shell that stays", "icon": "terminal"},
    {"name": "jupyter", "title": "JupyterLab", "description": "Notebooks", "icon": "notebook"},
]
_KEY = {"fingerprint": "SHA256:abc", "algorithm": "ssh-ed25519", "comment": "alice@laptop", "source": "berth"}
_BROWSER = {
    "id": BROWSER_ID,
    "browser": "Mozilla/5.0 (X11; Linux x86_64) Firefox/148.0",
    "address": "192.0.2.7",
    "created_at": 1.79e9,
    "used_at": 1.79e9,
    "expires_at": 1.79e9 + 43200,
}
_VISIT = {
    "id": BROWSER_ID,
    "secret": "v" * 43,
    "delegation_id": BROWSER_ID,
    "user": "alice",
    "owner": "alice",
    "session_id": SESSION_ID,
    "session": "dev",
    "service": "jupyter",
    "expires_at": 4e9,
}
_SNAPSHOTS = [
    {"number": 1, "label": "clean", "at": 1.79e9, "consistency": "stopped", "profile": "base", "version": "1"},
    {"number": 2, "reason": "before a rollback", "automatic": True, "at": 1.79e9, "consistency": "frozen", "pause": 0.2}
    | {"profile": "base", "version": "1"},
]
_JOBS = [
    {"submission": 2, "job_id": 7, "node": "c1", "gpus": 1, "asked_at": 1.79e9 + 9000, "started_at": 1.79e9 + 9100},
    {"submission": 1, "job_id": 3, "node": "c2", "gpus": 1, "asked_at": 1.79e9, "started_at": 1.79e9 + 600}
    | {"ended_at": 1.79e9 + 8000, "outcome": "TIMEOUT"},
]
_PREVIEW = {
    "profile": "triton-xpu",
    "version": "4",
    "description": "Triton for Intel GPUs",
    "options": ["--gres=gpu:1"],
    "present_options": ["--mem=4G"],
    "persistence": {},
}
