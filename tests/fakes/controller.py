"""A controller that plays a script: real HTTP on a real Unix socket, sessions that change when the client waits for it.

Whatever it claims about the API, the lab suite checks on the real controller.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import shutil
import tempfile
import threading
import time
from collections import defaultdict, deque
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from broker import errors
from broker.schema import volumes
from broker.schema.base import ErrorBody
from broker.schema.checks import CheckReport, StartEstimate
from broker.schema.connections import ConnectionList, ConnectionsNoted, ConnectionView, ResolveAnswer
from broker.schema.environments import EnvironmentList, EnvironmentView
from broker.schema.login import (
    AuthorityKeyView,
    AuthorityList,
    KeyList,
    KeyView,
    UserCertificateAnswer,
    UserCertificateList,
    UserCertificateView,
)
from broker.schema.sessions import (
    DeletedList,
    Endpoint,
    JobList,
    JobView,
    OperationView,
    SessionList,
    SessionState,
    SessionView,
)
from broker.schema.site import DoctorCheck, DoctorReport, EventList, EventView, LogText, RebuildReport, SiteView
from broker.schema.states import LIVE, STARTABLE
from broker.schema.watch import EVENT_STREAM
from broker.ssh.certificates import CertificateAuthority
from broker.ssh.keys import PublicKey
from tests.fakes.cluster import cluster_view
from tests.fakes.session_stream import SessionStream

if TYPE_CHECKING:
    from types import TracebackType

    from pydantic import BaseModel

CREATED = 1_790_000_000.0


def view(name: str = "dev", state: SessionState = SessionState.STOPPED, **values: object) -> SessionView:
    """A session of alice's; every field can be named."""
    defaults: dict[str, Any] = {
        "id": f"01{name}",
        "name": name,
        "owner": "alice",
        "state": state,
        "profile": "base",
        "version": "1",
        "digest": "sha256:00",
        "created_at": CREATED,
        "revision": 1,
    }
    return SessionView.model_validate(defaults | values)


def operation(verb: str, status: str = "pending", **values: object) -> OperationView:
    """Return an operation of a session; the same verb has the same id."""
    defaults = {"id": f"01{verb}", "verb": verb, "status": status, "asked_at": CREATED}
    return OperationView.model_validate(defaults | values)


def ready(name: str = "dev", **values: object) -> SessionView:
    """A session that one could log in to."""
    endpoint = Endpoint(node="c2", port=40022, fingerprint="SHA256:host")
    return view(name, SessionState.READY, **{"job_id": 7, "generation": "1.0", "endpoint": endpoint} | values)


CA_KEY = AuthorityKeyView(
    kind="host", fingerprint="SHA256:ca", public_key="ssh-ed25519 AAAA", standing="signing", since=CREATED
)


class ScriptedController:
    """Answers at `socket` while the context lasts. Tests set what it knows and read what it was asked."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionView] = {}
        self.script: dict[str, deque[SessionView | errors.BerthError | None]] = defaultdict(deque)
        """Next states of each session, one for each action or wait. None: it is gone. An error is the answer once."""
        self.failures: dict[str, errors.BerthError] = {}
        """`METHOD /path` → what to answer instead."""
        self.asked: list[tuple[str, str, Any]] = []
        """Method, path with query, decoded body."""
        self.keys: dict[str, KeyView] = {}
        self.snapshots: dict[str, list[volumes.SnapshotView]] = defaultdict(list)
        self.jobs: dict[str, list[JobView]] = defaultdict(list)
        self.deleted: dict[str, SessionView] = {}
        self.answers: dict[str, BaseModel] = {"GET /v1/cluster": cluster_view()}
        """`METHOD /path` → what to answer, for calls that only look."""
        self.estimates: dict[str, StartEstimate] = {}
        self.logs: dict[str, deque[str]] = defaultdict(deque)
        """The contents of the log, one for each look; the last one stays."""
        self.events: list[EventView] = []
        self.connections: list[ConnectionView] = []
        self.terminals: int | None = None
        self.stream = SessionStream()
        self.environments: list[EnvironmentView] = []
        self.certificates: list[UserCertificateView] = []
        self.checks: list[DoctorCheck] = []
        self.rebuilt = RebuildReport(restored=[])
        self.site = SiteView(
            user="alice",
            domain="berth",
            gateway_host="login.example",
            gateway_port=2222,
            login_host="login.example",
            ca_public_keys=[
                "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5o0mKIvqRkL7qs1Y8k2NVLI4sYrM0QZQ0dKz8UgQ0b berth CA"
            ],
            mode="site",
        )
        self.resolved = ResolveAnswer(
            session_id="01dev",
            owner="alice",
            name="dev",
            generation="1.0",
            host="127.0.0.1",
            port=40022,
            fingerprint="SHA256:host",
        )
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="berth-"))  # short: a socket's path has at most 107 bytes
        self.socket = self.directory / "api.sock"
        self._server = _Server(str(self.socket), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stream.end()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        shutil.rmtree(self.directory)

    @functools.cached_property
    def user_authority(self) -> CertificateAuthority:
        """The authority that signs its certificates for users."""
        return CertificateAuthority.load_or_create(self.directory / "ca" / "key")

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> BaseModel:  # noqa: ANN401 - JSON
        with self._changed:
            self.asked.append((method, path + ("?" + "&".join(query) if query else ""), body))
            self._changed.notify_all()
        if failure := self.failures.get(f"{method} {path}"):
            raise failure
        if answer := self.answers.get(f"{method} {path}"):
            return answer
        fixed: dict[str, BaseModel] = {
            "site": self.site,
            "health": LogText(text="ok"),
            "doctor": DoctorReport(checks=self.checks),
            "rebuild": self.rebuilt,
            "resolve": self.resolved,
            "deleted": DeletedList(sessions=list(self.deleted.values())),
            "events": EventList(events=self.events),
            "connections": ConnectionsNoted(noted=1),
            "sessions": SessionList(sessions=list(self.sessions.values())),
        }
        match path.split("/")[2:]:
            case [word] if word in fixed:
                return fixed[word]
            case ["ca", *rest] if rest[1:] in ([], ["rotate"]):
                return CA_KEY if rest else AuthorityList(keys=[CA_KEY, self._user_key()])
            case ["certificates" | "keys" as of, *rest]:
                return self._keys(method, rest, body) if of == "keys" else self._certificates(method, query, body)
            case ["environments" | "sessions" as of, *rest] if of == "environments" or rest:
                here = of == "environments"
                return self._environment(method, rest, body) if here else self._session(method, rest, query, body)
            case ["deleted", name, "restore"] if name in self.deleted:
                new = body["name"] or name
                self.sessions[new] = self.deleted.pop(name).model_copy(update={"name": new})
                return self._turn(new) if self.script[new] else self.sessions[new]
        raise errors.NotFoundError(f"no such call: {method} {path}")

    def wait_asked(self, method: str, path: str, count: int = 1, timeout: float = 10) -> None:
        """Return when that was asked `count` times; fail the test otherwise."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: sum(1 for each in self.asked if each[0] == method and each[1] == path) >= count, timeout
            ), f"{method} {path} was not asked {count} times: {self.asked}"

    def _session(self, method: str, path: list[str], query: dict[str, list[str]], body: Any) -> BaseModel:  # noqa: ANN401 - JSON
        name, *rest = unquote(path[0]), *path[1:]
        if name not in self.sessions:
            raise errors.NotFoundError(f"you have no session named {name}")
        match method, rest:
            case ("GET", []) if "after" in query:
                return self._wait(name, float(query["wait"][0]))
            case ("GET", ["log"]):
                log = self.logs[name]
                return LogText(text=log.popleft() if len(log) > 1 else log[0] if log else "")
            case ("GET", ["events"]):
                return EventList(events=[event for event in self.events if event.session == name])
            case ("GET", ["connections" | "snapshots" | "jobs" as of]):
                return self._listed(name, of)
            case ("DELETE", ["snapshots", reference]):
                return self._forget(name, reference)
        return self.sessions[name] if method == "GET" else self._act(name, rest, body)

    def _environment(self, method: str, rest: list[str], body: Any) -> BaseModel:  # noqa: ANN401 - JSON
        if method == "POST" and not rest:
            name, _, version = body["of"].partition("@")
            told = {"profile": name, "version": version or "1", "directory": str(self.directory / "environment")}
            made = EnvironmentView(id=f"01{name}", of=body["of"], created_at=CREATED, used_at=CREATED, **told)
            (self.directory / "environment/run").mkdir(parents=True)
            self.environments.append(made)
            return made
        known = [each for each in self.environments if each.id in rest]
        if method == "DELETE":
            self.environments = [each for each in self.environments if each not in known]
            return EnvironmentList(environments=known)
        if method == "GET":
            return EnvironmentList(environments=self.environments)
        if not known:
            raise errors.NotFoundError(f"you have no environment {rest[0]}")
        self.sessions[body["name"]] = view(body["name"], SessionState.CHANGING)
        return self._turn(body["name"]) if self.script[body["name"]] else self.sessions[body["name"]]

    def _certificates(self, method: str, query: dict[str, list[str]], body: Any) -> BaseModel:  # noqa: ANN401 - JSON
        if method == "POST":
            return self._signed(body["public_key"], body["hours"] or 16)
        if method == "DELETE":
            fingerprint = query.get("fingerprint", [None])[0]
            gone = [each for each in self.certificates if fingerprint in {None, each.fingerprint}]
            self.certificates = [each for each in self.certificates if each not in gone]
            return UserCertificateList(certificates=gone)
        return UserCertificateList(certificates=self.certificates)

    def _user_key(self) -> AuthorityKeyView:
        line = self.user_authority.public_line
        told = {"fingerprint": PublicKey.parse(line).fingerprint, "public_key": line}
        return CA_KEY.model_copy(update={"kind": "user"} | told)

    def _signed(self, public_key: str, hours: float) -> BaseModel:
        if self.site.login_with == "keys":
            raise errors.RefusedError("this site accepts keys, not certificates")
        now = time.time()
        line = self.user_authority.sign_user(
            public_key, self.site.user, valid_seconds=hours * 3600, serial=7, key_id="berth user"
        )
        key = PublicKey.parse(public_key)
        view = UserCertificateView(
            fingerprint=key.fingerprint,
            comment=key.comment,
            serial=7,
            issued_at=now,
            valid_before=now + hours * 3600,
            revoked_at=None,
        )
        self.certificates.append(view)
        return UserCertificateAnswer(certificate=line, view=view)

    def _listed(self, name: str, of: str) -> BaseModel:
        if of == "jobs":
            return JobList(jobs=self.jobs[name])
        if of == "snapshots":
            return volumes.SnapshotList(snapshots=self.snapshots[name])
        return ConnectionList(connections=self.connections, terminals=self.terminals)

    def _act(self, name: str, rest: list[str], body: Any) -> BaseModel:  # noqa: ANN401 - JSON
        if rest == ["check"]:
            return self._check(name, body)
        if rest == ["clone"]:
            name = body["name"]
            self.sessions[name] = view(name, SessionState.CHANGING)
        if rest == ["rename"]:
            self.sessions[body["name"]] = self.sessions.pop(name).model_copy(update={"name": body["name"]})
            name = body["name"]
        return self._turn(name) if self.script[name] else self.sessions[name]

    def _check(self, name: str, request: dict[str, Any]) -> BaseModel:
        """Refuse, as the real one, a request without the snapshot or the stopped session that it needs."""
        session = self.sessions[name]
        reference = request["delete_snapshot"] or (request["rollback"] or {}).get("snapshot")
        if reference and all(reference not in {str(each.number), each.label} for each in self.snapshots[name]):
            raise errors.NotFoundError(f"{name} has no snapshot {reference}")
        if request["delete"] and session.state not in STARTABLE:
            raise errors.ConflictError(
                f"{name} cannot be deleted while it is {session.state}", hint=f"`berth stop {name}` ends its job first"
            )
        ends = not request["delete"] and not request["delete_snapshot"] and session.state in LIVE
        estimate = self.estimates.get(name) if request["estimate"] else None
        return CheckReport(session=session, ends_job=ends, beside=session.beside, estimate=estimate)

    def _forget(self, name: str, reference: str) -> volumes.SnapshotView:
        for each in self.snapshots[name]:
            if reference in {str(each.number), each.label}:
                self.snapshots[name].remove(each)
                return each
        raise errors.NotFoundError(f"{name} has no snapshot {reference}")

    def _wait(self, name: str, seconds: float) -> SessionView:
        """Return the next change as the real one, or the same view after that time."""
        if not self.script[name]:
            time.sleep(seconds)
            return self.sessions[name]
        return self._turn(name)

    def _turn(self, name: str) -> SessionView:
        becomes = self.script[name].popleft()
        if isinstance(becomes, errors.BerthError):
            raise becomes
        if becomes is None:
            del self.sessions[name]
            raise errors.NotFoundError(f"you have no session named {name}")
        self.sessions[name] = becomes.model_copy(update={"revision": self.sessions[name].revision + 1})
        return self.sessions[name]

    def _keys(self, method: str, rest: list[str], body: Any) -> BaseModel:  # noqa: ANN401 - JSON
        if method == "POST":
            algorithm, blob, comment = [*body["public_key"].split(None, 2), ""][:3]
            digest = base64.b64encode(hashlib.sha256(base64.b64decode(blob)).digest()).decode().rstrip("=")
            added = KeyView(
                fingerprint=f"SHA256:{digest}", algorithm=algorithm, comment=comment, source="berth", added_at=CREATED
            )
            self.keys[added.fingerprint] = added
            return added
        if method == "DELETE":
            fingerprint = unquote(rest[0])
            if fingerprint not in self.keys:
                raise errors.NotFoundError(f"you have added no key {fingerprint}")
            return self.keys.pop(fingerprint)
        return KeyList(keys=list(self.keys.values()))


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that left while it waited is no news."""


def _handler(controller: ScriptedController) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            if EVENT_STREAM in self.headers.get("Accept", ""):
                controller.asked.append((self.command, self.path, None))
                controller.stream.serve(self, controller.sessions.values())
                return
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            try:
                status, answer = 200, controller.answer(self.command, parts.path, parse_qs(parts.query), body)
            except errors.BerthError as error:
                status = error.status
                answer = ErrorBody(reason=error.reason, message=error.message, hint=error.hint)
            content = answer.model_dump_json().encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
            pass

    return Handler


def plain(text: str) -> str:
    """Return the text as a terminal shows it: without escape sequences and carriage returns."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]|\r", "", text)


def posted(controller: ScriptedController) -> list[tuple[str, Any]]:
    """Return path and body of each POST that it was asked, without those that check a request."""
    return [(path, body) for method, path, body in controller.asked if method == "POST" and not path.endswith("/check")]
