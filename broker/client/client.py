"""The controller's API as Python calls, for the command line, `berth connect` and the TUI.

Blocking, over a Unix socket: a command that runs for a moment should not load an HTTP stack for it. Every failure is a
BerthError, rebuilt from the answer's body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from broker import errors
from broker.client import http
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
"""Seconds more than usual for calls that read all of a session's files."""


class Client:
    """One user's calls to the controller behind `api_socket`; a connection a call, so an object may live long.

    `revive` is called when nobody listens there; then the call, which nobody took, is made once more.
    """

    def __init__(self, api_socket: Path, revive: Callable[[], None] | None = None) -> None:
        self._socket = api_socket
        self._revive = revive

    def health(self) -> bool:
        """Whether the controller answers at all."""
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
        """The session; with `after`, as soon as its revision is above that, or unchanged after `wait` seconds."""
        query = "" if after is None else "?" + urlencode({"after": after, "wait": wait})
        return self._get(_session(name) + query, SessionView, extra_time=wait)

    def start(self, name: str, request: StartRequest) -> SessionView:
        return self._send("POST", _session(name) + "/start", SessionView, request)

    def stop(self, name: str) -> SessionView:
        return self._send("POST", _session(name) + "/stop", SessionView)

    def delete(self, name: str, *, purge: bool = False) -> SessionView:
        """Delete the session; `purge` leaves nothing for `restore`."""
        return self._send("DELETE", _session(name) + ("?purge=true" if purge else ""), SessionView)

    # What a session keeps. Calls that take long answer after a few seconds with an operation that is still pending; it
    # is followed with `session(name, after=…, wait=…)` until the operation of the same id is no longer pending. One
    # that has failed by then is raised.

    def snapshot(self, name: str, request: volumes.SnapshotRequest) -> SessionView:
        return self._send("POST", _session(name) + "/snapshots", SessionView, request)

    def snapshots(self, name: str) -> list[volumes.SnapshotView]:
        """Oldest first."""
        return self._get(_session(name) + "/snapshots", volumes.SnapshotList, extra_time=_LONG_CALL_S).snapshots

    def delete_snapshot(self, name: str, reference: str) -> volumes.SnapshotView:
        """Delete the snapshot with that number or label; what it was is returned."""
        path = f"{_session(name)}/snapshots/{quote(reference, safe='')}"
        return self._send("DELETE", path, volumes.SnapshotView, extra_time=_LONG_CALL_S)

    def rollback(self, name: str, request: volumes.RollbackRequest) -> SessionView:
        return self._send("POST", _session(name) + "/rollback", SessionView, request)

    def switch(self, name: str, request: volumes.SwitchRequest) -> SessionView:
        return self._send("POST", _session(name) + "/switch", SessionView, request)

    def clone(self, name: str, request: volumes.CloneRequest) -> SessionView:
        """The new session, which is stopped when its operation is done."""
        return self._send("POST", _session(name) + "/clone", SessionView, request)

    def diff(self, name: str, reference: str | None = None, *, content: bool = False) -> volumes.DiffReport:
        """Compare with that snapshot, or with the profile; may take minutes, with `content` an hour."""
        wanted = ({} if reference is None else {"from": reference}) | ({"content": "true"} if content else {})
        query = "?" + urlencode(wanted) if wanted else ""
        return self._get(_session(name) + "/diff" + query, volumes.DiffReport, extra_time=_LONG_CALL_S)

    def size(self, name: str) -> volumes.SizeReport:
        """Return what the session takes. The first call counts every file, and may take minutes."""
        return self._get(_session(name) + "/size", volumes.SizeReport, extra_time=_LONG_CALL_S)

    def verify(self, name: str) -> volumes.VerifyReport:
        """Read every layer and compare it with its checksums; may take an hour."""
        return self._send("POST", _session(name) + "/verify", volumes.VerifyReport, extra_time=_LONG_CALL_S)

    def flatten(self, name: str) -> SessionView:
        """Begin to make few layers of many in the background; nothing waits for it."""
        return self._send("POST", _session(name) + "/flatten", SessionView)

    def root(self, name: str) -> SessionView:
        """Stop the session and start it in root mode; `stop` leaves it."""
        return self._send("POST", _session(name) + "/root", SessionView)

    def commit_root(self, name: str) -> SessionView:
        """Keep what was changed in root mode."""
        return self._send("POST", _session(name) + "/root/commit", SessionView)

    def deleted(self) -> list[SessionView]:
        """The caller's deleted sessions that can be restored still."""
        return self._get("/v1/deleted", DeletedList).sessions

    def restore(self, name: str, request: volumes.RestoreRequest) -> SessionView:
        """Bring back the deleted session `name`, the one deleted last if there are several."""
        return self._send("POST", f"/v1/deleted/{quote(name, safe='')}/restore", SessionView, request)

    def gc(self, request: volumes.GcRequest) -> volumes.GcReport:
        """Remove layers that nothing names; may take an hour."""
        return self._send("POST", "/v1/gc", volumes.GcReport, request, extra_time=_LONG_CALL_S)

    # Batch jobs

    def environments(self) -> list[EnvironmentView]:
        """Those of the caller's batch jobs, the oldest first."""
        return self._get("/v1/environments", EnvironmentList).environments

    def make_environment(self, request: EnvironmentRequest) -> EnvironmentView:
        """Make an environment for a batch job; of a large session that runs it may take minutes."""
        return self._send("POST", "/v1/environments", EnvironmentView, request, extra_time=_LONG_CALL_S)

    def discard_environment(self, environment: str) -> list[EnvironmentView]:
        """Remove it, if it is there; what it was."""
        path = f"/v1/environments/{environment}"
        return self._send("DELETE", path, EnvironmentList, extra_time=_LONG_CALL_S).environments

    def promote(self, environment: str, request: PromoteRequest) -> SessionView:
        """The new session, which is stopped when its operation is done."""
        return self._send("POST", f"/v1/environments/{environment}/promote", SessionView, request)

    def log(self, name: str, *, tail: int = 65536) -> str:
        """The last `tail` bytes of the session's job log."""
        return self._get(f"{_session(name)}/log?bytes={tail}", LogText).text

    def events(self, name: str | None = None, *, connections: bool = True) -> list[EventView]:
        """What happened to one or all of the caller's sessions; `connections`: with who connected to them."""
        path = "/v1/events" if name is None else _session(name) + "/events"
        return self._get(path + ("" if connections else "?connections=false"), EventList).events

    def connections(self, name: str, *, ended: bool = False) -> list[ConnectionView]:
        """Those that stand; with `ended` all that are remembered."""
        path = _session(name) + "/connections" + ("?ended=true" if ended else "")
        return self._get(path, ConnectionList).connections

    def note(self, record: ConnectionRecord) -> int:
        """Have a connection of the caller's remembered; 0 if nobody knows the session."""
        report = ConnectionReport(connections=[record])
        return self._send("POST", "/v1/connections", ConnectionsNoted, report).noted

    def keys(self) -> list[KeyView]:
        return self._get("/v1/keys", KeyList).keys

    def add_key(self, public_key: str) -> KeyView:
        return self._send("POST", "/v1/keys", KeyView, KeyAdd(public_key=public_key))

    def remove_key(self, fingerprint: str) -> KeyView:
        return self._send("DELETE", f"/v1/keys/{quote(fingerprint, safe='')}", KeyView)

    def certificates(self) -> list[UserCertificateView]:
        """The caller's that are valid, but for being revoked."""
        return self._get("/v1/certificates", UserCertificateList).certificates

    def sign(self, request: UserCertificateRequest) -> UserCertificateAnswer:
        """A certificate for a key of the caller's."""
        return self._send("POST", "/v1/certificates", UserCertificateAnswer, request)

    def revoke(self, fingerprint: str | None = None) -> list[UserCertificateView]:
        """Have the certificates for that key, or all of the caller's, let nobody in; those that did until now."""
        query = "" if fingerprint is None else "?" + urlencode({"fingerprint": fingerprint})
        return self._send("DELETE", "/v1/certificates" + query, UserCertificateList).certificates

    def authorities(self) -> list[AuthorityKeyView]:
        return self._get("/v1/ca", AuthorityList).keys

    def rotate(self, kind: AuthorityKind, *, now: bool = False) -> AuthorityKeyView:
        """Announce the next key of an authority, or sign with the one that is announced; for operators."""
        return self._send("POST", f"/v1/ca/{kind}/rotate", AuthorityKeyView, RotateRequest(now=now))

    def retire(self, kind: AuthorityKind, fingerprint: str, *, now: bool = False) -> AuthorityKeyView:
        """Have a key of an authority believed no more; for operators."""
        request = RetireRequest(fingerprint=fingerprint, now=now)
        return self._send("POST", f"/v1/ca/{kind}/retire", AuthorityKeyView, request)

    def resolve(
        self, user: str, target: str, *, root: bool = False, tell: Callable[[str], None] = lambda _: None
    ) -> ResolveAnswer:
        """Where the session that `target` names listens; refusals say why in words meant for a terminal.

        While it is on its way it is waited for, and `tell` is called with how far it is. A session in root mode lets
        only `root` in: it is refused unless `root` is asked for, and the other way round.
        """
        request = ResolveRequest(user=user, target=target, root=root, patient=True)
        while True:
            try:
                return self._send("POST", "/v1/resolve", ResolveAnswer, request)
            except errors.WaitingError as error:
                tell(error.message)

    def set_idle(self, name: str, idle: str | None) -> SessionView:
        """Decide after which time without use the session is stopped; None: as its profile or the site has it."""
        body = IdleChoice(idle=idle).model_dump_json()
        return SessionView.model_validate_json(self._request("PUT", _session(name) + "/idle", body))

    def set_continuation(self, name: str, continuation: str | None) -> SessionView:
        """Decide whether the session goes on in another job; None: as its profile, or else the site, has it."""
        body = ContinuationChoice(continuation=continuation).model_dump_json()
        return SessionView.model_validate_json(self._request("PUT", _session(name) + "/continuation", body))

    def set_stop_time(self, name: str, at: float | None, *, keep: bool = False) -> SessionView:
        """Have the session stopped at that time, or at none; with `keep` it goes on until then."""
        return self._send("PUT", _session(name) + "/stop-time", SessionView, StopTime(at=at, keep=keep))

    def resize(self, name: str, options: list[str]) -> SessionView:
        """Have the session go on in a job with these options; it is ready again in a job of another id."""
        return self._send("POST", _session(name) + "/resize", SessionView, ResizeRequest(options=options))

    def extend(self, name: str, seconds: float) -> SessionView:
        """Give the session's job so much more time."""
        body = ExtendRequest(seconds=seconds).model_dump_json()
        return SessionView.model_validate_json(self._request("POST", _session(name) + "/extend", body))

    def jobs(self, name: str) -> list[JobView]:
        """Every job that was asked for to carry the session, the last one first."""
        return JobList.model_validate_json(self._request("GET", _session(name) + "/jobs")).jobs

    def set_connecting(self, name: str, policy: ConnectPolicy) -> SessionView:
        """Change what connecting does, as far as `policy` says anything of it."""
        body = policy.model_dump_json(exclude_unset=True)
        return SessionView.model_validate_json(self._request("PATCH", _session(name) + "/connecting", body))

    def doctor(self) -> list[DoctorCheck]:
        return self._get("/v1/doctor", DoctorReport).checks

    def rebuild(self) -> RebuildReport:
        """Bring every session back into an empty registry from the manifests; may take minutes."""
        return self._send("POST", "/v1/rebuild", RebuildReport, extra_time=3600)

    def _get(self, path: str, answer: type[_Answer], *, extra_time: float = 0) -> _Answer:
        return answer.model_validate_json(self._request("GET", path, extra_time=extra_time))

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
        return answer.model_validate_json(self._request(method, path, content, extra_time=extra_time))

    def _request(self, method: str, path: str, body: str | None = None, *, extra_time: float = 0) -> bytes:
        try:
            asked = http.send_request(self._socket, method, path, body, extra_time=extra_time)
        except errors.ControllerUnavailableError:
            if self._revive is None:
                raise
            self._revive()
            asked = http.send_request(self._socket, method, path, body, extra_time=extra_time)
        return asked.answer()


def _session(name: str) -> str:
    return f"/v1/sessions/{quote(name, safe='')}"
