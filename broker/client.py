"""The controller's API as Python calls: what the command line, `berth connect` and the TUI speak through.

Blocking, over a Unix socket: a command that runs for a moment should not load an HTTP stack for it. Every failure is a
BerthError, rebuilt from the answer's body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from broker import batch_schema, errors, schema, volume_schema, wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import BaseModel

_Answer = TypeVar("_Answer", bound="BaseModel")

_FILES = 3600
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

    def site(self) -> schema.SiteView:
        return self._get("/v1/site", schema.SiteView)

    def sessions(self) -> list[schema.SessionView]:
        return self._get("/v1/sessions", schema.SessionList).sessions

    def session(self, name: str, *, after: int | None = None, wait: float = 0) -> schema.SessionView:
        """The session; with `after`, as soon as its revision is above that, or unchanged after `wait` seconds."""
        query = "" if after is None else "?" + urlencode({"after": after, "wait": wait})
        return self._get(_session(name) + query, schema.SessionView, extra_time=wait)

    def start(self, name: str, request: schema.StartRequest) -> schema.SessionView:
        return self._send("POST", _session(name) + "/start", schema.SessionView, request)

    def stop(self, name: str) -> schema.SessionView:
        return self._send("POST", _session(name) + "/stop", schema.SessionView)

    def delete(self, name: str, *, purge: bool = False) -> schema.SessionView:
        """Delete the session; `purge` leaves nothing for `restore`."""
        return self._send("DELETE", _session(name) + ("?purge=true" if purge else ""), schema.SessionView)

    # What a session keeps. Calls that take long answer after a few seconds with an operation that is still pending; it
    # is followed with `session(name, after=…, wait=…)` until the operation of the same id is no longer pending. One
    # that has failed by then is raised.

    def snapshot(self, name: str, request: volume_schema.SnapshotRequest) -> schema.SessionView:
        return self._send("POST", _session(name) + "/snapshots", schema.SessionView, request)

    def snapshots(self, name: str) -> list[volume_schema.SnapshotView]:
        """Oldest first."""
        return self._get(_session(name) + "/snapshots", volume_schema.SnapshotList, extra_time=_FILES).snapshots

    def delete_snapshot(self, name: str, reference: str) -> volume_schema.SnapshotView:
        """Delete the snapshot with that number or label; what it was is returned."""
        path = f"{_session(name)}/snapshots/{quote(reference, safe='')}"
        return self._send("DELETE", path, volume_schema.SnapshotView, extra_time=_FILES)

    def rollback(self, name: str, request: volume_schema.RollbackRequest) -> schema.SessionView:
        return self._send("POST", _session(name) + "/rollback", schema.SessionView, request)

    def switch(self, name: str, request: volume_schema.SwitchRequest) -> schema.SessionView:
        return self._send("POST", _session(name) + "/switch", schema.SessionView, request)

    def clone(self, name: str, request: volume_schema.CloneRequest) -> schema.SessionView:
        """The new session, which is stopped when its operation is done."""
        return self._send("POST", _session(name) + "/clone", schema.SessionView, request)

    def diff(self, name: str, reference: str | None = None, *, content: bool = False) -> volume_schema.DiffReport:
        """Compare with that snapshot, or with the profile; may take minutes, with `content` an hour."""
        wanted = ({} if reference is None else {"from": reference}) | ({"content": "true"} if content else {})
        query = "?" + urlencode(wanted) if wanted else ""
        return self._get(_session(name) + "/diff" + query, volume_schema.DiffReport, extra_time=_FILES)

    def size(self, name: str) -> volume_schema.SizeReport:
        """Return what the session takes. The first call counts every file, and may take minutes."""
        return self._get(_session(name) + "/size", volume_schema.SizeReport, extra_time=_FILES)

    def verify(self, name: str) -> volume_schema.VerifyReport:
        """Read every layer and compare it with its checksums; may take an hour."""
        return self._send("POST", _session(name) + "/verify", volume_schema.VerifyReport, extra_time=_FILES)

    def flatten(self, name: str) -> schema.SessionView:
        """Begin to make few layers of many in the background; nothing waits for it."""
        return self._send("POST", _session(name) + "/flatten", schema.SessionView)

    def root(self, name: str) -> schema.SessionView:
        """Stop the session and start it in root mode; `stop` leaves it."""
        return self._send("POST", _session(name) + "/root", schema.SessionView)

    def commit_root(self, name: str) -> schema.SessionView:
        """Keep what was changed in root mode."""
        return self._send("POST", _session(name) + "/root/commit", schema.SessionView)

    def deleted(self) -> list[schema.SessionView]:
        """The caller's deleted sessions that can be restored still."""
        return self._get("/v1/deleted", schema.DeletedList).sessions

    def restore(self, name: str, request: volume_schema.RestoreRequest) -> schema.SessionView:
        """Bring back the deleted session `name`, the one deleted last if there are several."""
        return self._send("POST", f"/v1/deleted/{quote(name, safe='')}/restore", schema.SessionView, request)

    def gc(self, request: volume_schema.GcRequest) -> volume_schema.GcReport:
        """Remove layers that nothing names; may take an hour."""
        return self._send("POST", "/v1/gc", volume_schema.GcReport, request, extra_time=_FILES)

    # Batch jobs

    def environments(self) -> list[batch_schema.EnvironmentView]:
        """Those of the caller's batch jobs, the oldest first."""
        return self._get("/v1/environments", batch_schema.EnvironmentList).environments

    def make_environment(self, request: batch_schema.EnvironmentRequest) -> batch_schema.EnvironmentView:
        """Make an environment for a batch job; of a large session that runs it may take minutes."""
        return self._send("POST", "/v1/environments", batch_schema.EnvironmentView, request, extra_time=_FILES)

    def discard_environment(self, environment: str) -> list[batch_schema.EnvironmentView]:
        """Remove it, if it is there; what it was."""
        path = f"/v1/environments/{environment}"
        return self._send("DELETE", path, batch_schema.EnvironmentList, extra_time=_FILES).environments

    def promote(self, environment: str, request: batch_schema.PromoteRequest) -> schema.SessionView:
        """The new session, which is stopped when its operation is done."""
        return self._send("POST", f"/v1/environments/{environment}/promote", schema.SessionView, request)

    def log(self, name: str, *, tail: int = 65536) -> str:
        """The last `tail` bytes of the session's job log."""
        return self._get(f"{_session(name)}/log?bytes={tail}", schema.LogText).text

    def events(self, name: str | None = None, *, connections: bool = True) -> list[schema.EventView]:
        """What happened to one or all of the caller's sessions; `connections`: with who connected to them."""
        path = "/v1/events" if name is None else _session(name) + "/events"
        return self._get(path + ("" if connections else "?connections=false"), schema.EventList).events

    def connections(self, name: str, *, ended: bool = False) -> list[schema.ConnectionView]:
        """Those that stand; with `ended` all that are remembered."""
        path = _session(name) + "/connections" + ("?ended=true" if ended else "")
        return self._get(path, schema.ConnectionList).connections

    def note(self, record: schema.ConnectionRecord) -> int:
        """Have a connection of the caller's remembered; 0 if nobody knows the session."""
        report = schema.ConnectionReport(connections=[record])
        return self._send("POST", "/v1/connections", schema.ConnectionsNoted, report).noted

    def keys(self) -> list[schema.KeyView]:
        return self._get("/v1/keys", schema.KeyList).keys

    def add_key(self, public_key: str) -> schema.KeyView:
        return self._send("POST", "/v1/keys", schema.KeyView, schema.KeyAdd(public_key=public_key))

    def remove_key(self, fingerprint: str) -> schema.KeyView:
        return self._send("DELETE", f"/v1/keys/{quote(fingerprint, safe='')}", schema.KeyView)

    def certificates(self) -> list[schema.UserCertificateView]:
        """The caller's that are valid, but for being revoked."""
        return self._get("/v1/certificates", schema.UserCertificateList).certificates

    def sign(self, request: schema.UserCertificateRequest) -> schema.UserCertificateAnswer:
        """A certificate for a key of the caller's."""
        return self._send("POST", "/v1/certificates", schema.UserCertificateAnswer, request)

    def revoke(self, fingerprint: str | None = None) -> list[schema.UserCertificateView]:
        """Have the certificates for that key, or all of the caller's, let nobody in; those that did until now."""
        query = "" if fingerprint is None else "?" + urlencode({"fingerprint": fingerprint})
        return self._send("DELETE", "/v1/certificates" + query, schema.UserCertificateList).certificates

    def authorities(self) -> list[schema.AuthorityKeyView]:
        return self._get("/v1/ca", schema.AuthorityList).keys

    def rotate(self, kind: schema.AuthorityKind, *, now: bool = False) -> schema.AuthorityKeyView:
        """Announce the next key of an authority, or sign with the one that is announced; for operators."""
        return self._send("POST", f"/v1/ca/{kind}/rotate", schema.AuthorityKeyView, schema.RotateRequest(now=now))

    def retire(self, kind: schema.AuthorityKind, fingerprint: str, *, now: bool = False) -> schema.AuthorityKeyView:
        """Have a key of an authority believed no more; for operators."""
        request = schema.RetireRequest(fingerprint=fingerprint, now=now)
        return self._send("POST", f"/v1/ca/{kind}/retire", schema.AuthorityKeyView, request)

    def resolve(
        self, user: str, target: str, *, root: bool = False, tell: Callable[[str], None] = lambda _: None
    ) -> schema.ResolveAnswer:
        """Where the session that `target` names listens; refusals say why in words meant for a terminal.

        While it is on its way it is waited for, and `tell` is called with how far it is. A session in root mode lets
        only `root` in: it is refused unless `root` is asked for, and the other way round.
        """
        request = schema.ResolveRequest(user=user, target=target, root=root, patient=True)
        while True:
            try:
                return self._send("POST", "/v1/resolve", schema.ResolveAnswer, request)
            except errors.WaitingError as error:
                tell(error.message)

    def set_idle(self, name: str, idle: str | None) -> schema.SessionView:
        """Decide after which time without use the session is stopped; None: as its profile or the site has it."""
        body = schema.IdleChoice(idle=idle).model_dump_json()
        return schema.SessionView.model_validate_json(self._request("PUT", _session(name) + "/idle", body))

    def set_continuation(self, name: str, continuation: str | None) -> schema.SessionView:
        """Decide whether the session goes on in another job; None: as its profile, or else the site, has it."""
        body = schema.ContinuationChoice(continuation=continuation).model_dump_json()
        return schema.SessionView.model_validate_json(self._request("PUT", _session(name) + "/continuation", body))

    def set_stop_time(self, name: str, at: float | None, *, keep: bool = False) -> schema.SessionView:
        """Have the session stopped at that time, or at none; with `keep` it goes on until then."""
        return self._send("PUT", _session(name) + "/stop-time", schema.SessionView, schema.StopTime(at=at, keep=keep))

    def resize(self, name: str, options: list[str]) -> schema.SessionView:
        """Have the session go on in a job with these options; it is ready again in a job of another id."""
        return self._send("POST", _session(name) + "/resize", schema.SessionView, schema.ResizeRequest(options=options))

    def extend(self, name: str, seconds: float) -> schema.SessionView:
        """Give the session's job so much more time."""
        body = schema.ExtendRequest(seconds=seconds).model_dump_json()
        return schema.SessionView.model_validate_json(self._request("POST", _session(name) + "/extend", body))

    def jobs(self, name: str) -> list[schema.JobView]:
        """Every job that was asked for to carry the session, the last one first."""
        return schema.JobList.model_validate_json(self._request("GET", _session(name) + "/jobs")).jobs

    def set_connecting(self, name: str, policy: schema.ConnectPolicy) -> schema.SessionView:
        """Change what connecting does, as far as `policy` says anything of it."""
        body = policy.model_dump_json(exclude_unset=True)
        return schema.SessionView.model_validate_json(self._request("PATCH", _session(name) + "/connecting", body))

    def doctor(self) -> list[schema.DoctorCheck]:
        return self._get("/v1/doctor", schema.DoctorReport).checks

    def rebuild(self) -> schema.RebuildReport:
        """Bring every session back into an empty registry from the manifests; may take minutes."""
        return self._send("POST", "/v1/rebuild", schema.RebuildReport, extra_time=3600)

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
            asked = wire.ask(self._socket, method, path, body, extra_time=extra_time)
        except errors.ControllerUnavailableError:
            if self._revive is None:
                raise
            self._revive()
            asked = wire.ask(self._socket, method, path, body, extra_time=extra_time)
        return asked.answer()


def _session(name: str) -> str:
    return f"/v1/sessions/{quote(name, safe='')}"
