"""The controller's API as blocking Python calls, for the command line, `berth connect` and the TUI.

The calls use a Unix socket without an HTTP library, which would take long to load. Every failure is a BerthError, made
from the response's body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from broker import errors
from broker.client import http
from broker.client.answers import parse_answer
from broker.schema import volumes
from broker.schema.connections import (
    ConnectionList,
    ConnectionRecord,
    ConnectionReport,
    ConnectionsNoted,
    ConnectionView,
    ResolveAnswer,
    ResolveRequest,
)
from broker.schema.environments import EnvironmentList, EnvironmentRequest, EnvironmentView, PromoteRequest
from broker.schema.login import (
    AuthorityKeyView,
    AuthorityKind,
    AuthorityList,
    KeyAdd,
    KeyList,
    KeyView,
    RetireRequest,
    RotateRequest,
    UserCertificateAnswer,
    UserCertificateList,
    UserCertificateRequest,
    UserCertificateView,
)
from broker.schema.sessions import (
    ConnectPolicy,
    ContinuationChoice,
    DeletedList,
    ExtendRequest,
    IdleChoice,
    JobList,
    JobView,
    ResizeRequest,
    SessionList,
    SessionView,
    StartRequest,
    StopTime,
)
from broker.schema.site import DoctorCheck, DoctorReport, EventList, EventView, LogText, RebuildReport, SiteView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import BaseModel

_Answer = TypeVar("_Answer", bound="BaseModel")

_LONG_CALL_S = 3600
"""Additional time for calls that read all files of a session."""


class Client:
    """Calls to the controller behind `api_socket`, each with its own connection.

    If no process listens, `revive` is called and the request is sent once more.
    """

    def __init__(self, api_socket: Path, revive: Callable[[], None] | None = None) -> None:
        self._socket = api_socket
        self._revive = revive

    def health(self) -> bool:
        """Whether the controller answers."""
        try:
            self._request("GET", "/v1/health")
        except errors.ControllerUnavailableError:
            return False
        return True

    def site(self) -> SiteView:
        return self._get("/v1/site", SiteView)

    def sessions(self) -> list[SessionView]:
        return self._get("/v1/sessions", SessionList).sessions

    def session(self, name: str, *, after: int | None = None, wait: float = 0) -> SessionView:
        """Return the session; with `after`, when its revision is above `after`, or after `wait` seconds."""
        query = "" if after is None else "?" + urlencode({"after": after, "wait": wait})
        return self._get(_session(name) + query, SessionView, extra_time=wait)

    def start(self, name: str, request: StartRequest) -> SessionView:
        return self._send("POST", _session(name) + "/start", SessionView, request)

    def stop(self, name: str) -> SessionView:
        return self._send("POST", _session(name) + "/stop", SessionView)

    def delete(self, name: str, *, purge: bool = False) -> SessionView:
        """Delete the session; with `purge`, it cannot be restored."""
        return self._send("DELETE", _session(name) + ("?purge=true" if purge else ""), SessionView)

    # Operations on volumes. A call that takes long returns after a few seconds with a pending operation; follow it with
    # `session(name, after=…, wait=…)` until the operation of the same id is no longer pending. If the operation has
    # failed by then, its error is raised.

    def snapshot(self, name: str, request: volumes.SnapshotRequest) -> SessionView:
        return self._send("POST", _session(name) + "/snapshots", SessionView, request)

    def snapshots(self, name: str) -> list[volumes.SnapshotView]:
        """Return the snapshots, oldest first."""
        return self._get(_session(name) + "/snapshots", volumes.SnapshotList, extra_time=_LONG_CALL_S).snapshots

    def delete_snapshot(self, name: str, reference: str) -> volumes.SnapshotView:
        """Delete the snapshot with that number or label, and return it."""
        path = f"{_session(name)}/snapshots/{quote(reference, safe='')}"
        return self._send("DELETE", path, volumes.SnapshotView, extra_time=_LONG_CALL_S)

    def rollback(self, name: str, request: volumes.RollbackRequest) -> SessionView:
        return self._send("POST", _session(name) + "/rollback", SessionView, request)

    def switch(self, name: str, request: volumes.SwitchRequest) -> SessionView:
        return self._send("POST", _session(name) + "/switch", SessionView, request)

    def clone(self, name: str, request: volumes.CloneRequest) -> SessionView:
        """Clone the session; return the new one, which is stopped when its operation is done."""
        return self._send("POST", _session(name) + "/clone", SessionView, request)

    def diff(self, name: str, reference: str | None = None, *, content: bool = False) -> volumes.DiffReport:
        """Compare with a snapshot, or with the profile; may take minutes, with `content` an hour."""
        fields = ({} if reference is None else {"from": reference}) | ({"content": "true"} if content else {})
        query = "?" + urlencode(fields) if fields else ""
        return self._get(_session(name) + "/diff" + query, volumes.DiffReport, extra_time=_LONG_CALL_S)

    def size(self, name: str) -> volumes.SizeReport:
        """Return the disk usage. The first call counts all files, which may take minutes."""
        return self._get(_session(name) + "/size", volumes.SizeReport, extra_time=_LONG_CALL_S)

    def verify(self, name: str) -> volumes.VerifyReport:
        """Read every layer and compare it with its checksums; may take an hour."""
        return self._send("POST", _session(name) + "/verify", volumes.VerifyReport, extra_time=_LONG_CALL_S)

    def flatten(self, name: str) -> SessionView:
        """Begin to merge the layers in the background; return at once."""
        return self._send("POST", _session(name) + "/flatten", SessionView)

    def root(self, name: str) -> SessionView:
        """Stop the session and start it in root mode; `stop` ends root mode."""
        return self._send("POST", _session(name) + "/root", SessionView)

    def commit_root(self, name: str) -> SessionView:
        """Keep the changes of root mode."""
        return self._send("POST", _session(name) + "/root/commit", SessionView)

    def deleted(self) -> list[SessionView]:
        """Return the caller's deleted sessions that can be restored."""
        return self._get("/v1/deleted", DeletedList).sessions

    def restore(self, name: str, request: volumes.RestoreRequest) -> SessionView:
        """Restore the deleted session `name`, the last deleted one if there are several."""
        return self._send("POST", f"/v1/deleted/{quote(name, safe='')}/restore", SessionView, request)

    def gc(self, request: volumes.GcRequest) -> volumes.GcReport:
        """Remove layers that no stack refers to; may take an hour."""
        return self._send("POST", "/v1/gc", volumes.GcReport, request, extra_time=_LONG_CALL_S)

    # Batch jobs

    def environments(self) -> list[EnvironmentView]:
        """Return the environments of the caller's batch jobs, oldest first."""
        return self._get("/v1/environments", EnvironmentList).environments

    def make_environment(self, request: EnvironmentRequest) -> EnvironmentView:
        """Create an environment for a batch job; may take minutes for a large running session."""
        return self._send("POST", "/v1/environments", EnvironmentView, request, extra_time=_LONG_CALL_S)

    def discard_environment(self, environment: str) -> list[EnvironmentView]:
        """Delete the environment if it exists; return the deleted ones."""
        path = f"/v1/environments/{environment}"
        return self._send("DELETE", path, EnvironmentList, extra_time=_LONG_CALL_S).environments

    def promote(self, environment: str, request: PromoteRequest) -> SessionView:
        """Create a session from a job's environment; it is stopped when its operation is done."""
        return self._send("POST", f"/v1/environments/{environment}/promote", SessionView, request)

    def log(self, name: str, *, tail: int = 65536) -> str:
        """Return the last `tail` bytes of the session's job log."""
        return self._get(f"{_session(name)}/log?bytes={tail}", LogText).text

    def events(self, name: str | None = None, *, connections: bool = True) -> list[EventView]:
        """Return the events of one or all of the caller's sessions; with `connections`, their connections, too."""
        path = "/v1/events" if name is None else _session(name) + "/events"
        return self._get(path + ("" if connections else "?connections=false"), EventList).events

    def connections(self, name: str, *, ended: bool = False) -> list[ConnectionView]:
        """Return the open connections; with `ended`, also recorded former ones."""
        path = _session(name) + "/connections" + ("?ended=true" if ended else "")
        return self._get(path, ConnectionList).connections

    def note(self, record: ConnectionRecord) -> int:
        """Record a connection of the caller; return 0 if the session is unknown, else 1."""
        report = ConnectionReport(connections=[record])
        return self._send("POST", "/v1/connections", ConnectionsNoted, report).noted

    def keys(self) -> list[KeyView]:
        return self._get("/v1/keys", KeyList).keys

    def add_key(self, public_key: str) -> KeyView:
        return self._send("POST", "/v1/keys", KeyView, KeyAdd(public_key=public_key))

    def remove_key(self, fingerprint: str) -> KeyView:
        return self._send("DELETE", f"/v1/keys/{quote(fingerprint, safe='')}", KeyView)

    def certificates(self) -> list[UserCertificateView]:
        """Return the caller's certificates that have not expired, including revoked ones."""
        return self._get("/v1/certificates", UserCertificateList).certificates

    def sign(self, request: UserCertificateRequest) -> UserCertificateAnswer:
        """Request a certificate for one of the caller's keys."""
        return self._send("POST", "/v1/certificates", UserCertificateAnswer, request)

    def revoke(self, fingerprint: str | None = None) -> list[UserCertificateView]:
        """Revoke the certificates for that key, or all of the caller; return the revoked ones."""
        query = "" if fingerprint is None else "?" + urlencode({"fingerprint": fingerprint})
        return self._send("DELETE", "/v1/certificates" + query, UserCertificateList).certificates

    def authorities(self) -> list[AuthorityKeyView]:
        return self._get("/v1/ca", AuthorityList).keys

    def rotate(self, kind: AuthorityKind, *, now: bool = False) -> AuthorityKeyView:
        """Announce an authority's next key, or make the announced key the signing key; for operators."""
        return self._send("POST", f"/v1/ca/{kind}/rotate", AuthorityKeyView, RotateRequest(now=now))

    def retire(self, kind: AuthorityKind, fingerprint: str, *, now: bool = False) -> AuthorityKeyView:
        """Stop trusting a key of an authority; for operators."""
        request = RetireRequest(fingerprint=fingerprint, now=now)
        return self._send("POST", f"/v1/ca/{kind}/retire", AuthorityKeyView, request)

    def resolve(
        self, user: str, target: str, *, root: bool = False, tell: Callable[[str], None] = lambda _: None
    ) -> ResolveAnswer:
        """Return the endpoint of the session `target`, when it is ready; messages of refusals are safe for a terminal.

        `tell` is called with the session's state until then. A session in root mode requires `root`, other sessions
        refuse it.
        """
        request = ResolveRequest(user=user, target=target, root=root, patient=True)
        while True:
            try:
                return self._send("POST", "/v1/resolve", ResolveAnswer, request)
            except errors.WaitingError as error:
                tell(error.message)

    def set_idle(self, name: str, idle: str | None) -> SessionView:
        """Set the idle time after which the session is stopped; None: the default of the profile or the site."""
        body = IdleChoice(idle=idle).model_dump_json()
        return parse_answer(SessionView, self._request("PUT", _session(name) + "/idle", body))

    def set_continuation(self, name: str, continuation: str | None) -> SessionView:
        """Set whether the session continues in a new job; None: the default of the profile or the site."""
        body = ContinuationChoice(continuation=continuation).model_dump_json()
        return parse_answer(SessionView, self._request("PUT", _session(name) + "/continuation", body))

    def set_stop_time(self, name: str, at: float | None, *, keep: bool = False) -> SessionView:
        """Set or clear the session's stop time; with `keep`, it continues until then."""
        return self._send("PUT", _session(name) + "/stop-time", SessionView, StopTime(at=at, keep=keep))

    def resize(self, name: str, options: list[str]) -> SessionView:
        """Continue the session in a new job with these options."""
        return self._send("POST", _session(name) + "/resize", SessionView, ResizeRequest(options=options))

    def extend(self, name: str, seconds: float) -> SessionView:
        """Extend the time limit of the session's job."""
        body = ExtendRequest(seconds=seconds).model_dump_json()
        return parse_answer(SessionView, self._request("POST", _session(name) + "/extend", body))

    def jobs(self, name: str) -> list[JobView]:
        """Return the jobs of the session, the latest first."""
        return parse_answer(JobList, self._request("GET", _session(name) + "/jobs")).jobs

    def set_connecting(self, name: str, policy: ConnectPolicy) -> SessionView:
        """Change the policy for connections; only the fields that are set in `policy`."""
        body = policy.model_dump_json(exclude_unset=True)
        return parse_answer(SessionView, self._request("PATCH", _session(name) + "/connecting", body))

    def doctor(self) -> list[DoctorCheck]:
        return self._get("/v1/doctor", DoctorReport).checks

    def rebuild(self) -> RebuildReport:
        """Rebuild the registry from the sessions' manifests; may take minutes."""
        return self._send("POST", "/v1/rebuild", RebuildReport, extra_time=3600)

    def _get(self, path: str, answer: type[_Answer], *, extra_time: float = 0) -> _Answer:
        return parse_answer(answer, self._request("GET", path, extra_time=extra_time))

    def _send(
        self,
        method: str,
        path: str,
        answer: type[_Answer],
        body: BaseModel | None = None,
        *,
        extra_time: float = 0,
    ) -> _Answer:
        content = None if body is None else body.model_dump_json()
        return parse_answer(answer, self._request(method, path, content, extra_time=extra_time))

    def _request(self, method: str, path: str, body: str | None = None, *, extra_time: float = 0) -> bytes:
        try:
            pending = http.send_request(self._socket, method, path, body, extra_time=extra_time)
        except errors.ControllerUnavailableError:
            if self._revive is None:
                raise
            self._revive()
            pending = http.send_request(self._socket, method, path, body, extra_time=extra_time)
        return pending.answer()


def _session(name: str) -> str:
    return f"/v1/sessions/{quote(name, safe='')}"
