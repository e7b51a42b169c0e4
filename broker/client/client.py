"""The controller's API as blocking Python calls, for the command line, `berth connect` and the TUI.

The calls use a Unix socket without an HTTP library, which would take long to load. Every failure is a BerthError, made
from the response's body. Each call imports the types that it needs: all of them take a tenth of a second.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from broker import errors
from broker.client.access_client import AccessClient
from broker.client.admin_client import AdminClient
from broker.client.answers import parse_answer
from broker.client.records import parse_record, parse_records
from broker.client.request_sender import encode_query, quote_segment
from broker.client.sharing_client import SharingClient
from broker.client.version_client import VersionClient

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.watch import SessionWatch
    from broker.schema.checks import CheckReport, CheckRequest
    from broker.schema.cluster import ClusterView
    from broker.schema.connections import ConnectionList, ConnectionRecord, ConnectionView, ResolveAnswer
    from broker.schema.environments import EnvironmentRequest, EnvironmentView, PromoteRequest
    from broker.schema.sessions import ConnectPolicy, JobView, PresentJob, RenameRequest, SessionView, StartRequest
    from broker.schema.site import DoctorCheck, EventView, RebuildReport, SiteView
    from broker.schema.volumes import (
        CloneRequest,
        DiffReport,
        GcReport,
        GcRequest,
        RestoreRequest,
        RollbackRequest,
        SizeReport,
        SnapshotRequest,
        SnapshotView,
        SwitchRequest,
        VerifyReport,
    )

_LONG_CALL_S = 3600
"""Additional time for calls that read all files of a session."""


class Client(AccessClient, AdminClient, SharingClient, VersionClient):
    """Calls to the controller behind `api_socket`, each with its own connection.

    If no process listens, `revive` is called and the request is sent once more.
    """

    def health(self) -> bool:
        """Whether the controller answers."""
        try:
            self._request("GET", "/v1/health")
        except errors.ControllerUnavailableError:
            return False
        return True

    def site(self) -> SiteView:
        from broker.schema.site import SiteView

        return self._get("/v1/site", SiteView)

    def sessions(self) -> list[SessionView]:
        """Return the caller's sessions. Their fields are not validated, because that would take most of the time."""
        return cast("list[SessionView]", parse_records(self._request("GET", "/v1/sessions"), "sessions"))

    def read_session(self, name: str) -> SessionView:
        """Return the session to show it: its fields are not validated."""
        return cast("SessionView", parse_record(self._request("GET", _session(name))))

    def watch(self, since: str | None = None) -> SessionWatch:
        """Watch the caller's sessions, from the revision `since` of an earlier watch if that can be resumed."""
        from broker.client.watch import SessionWatch

        return self._send_with_revival(lambda: SessionWatch(self._socket, since))

    def read_site(self) -> SiteView:
        """Return the site's settings to show them: their fields are not validated."""
        return cast("SiteView", parse_record(self._request("GET", "/v1/site")))

    def session(self, name: str, *, after: int | None = None, wait: float = 0, refresh: bool = False) -> SessionView:
        """Return the session; with `after`, when its revision is above `after`, or after `wait` seconds.

        `refresh`: have the controller query Slurm now.
        """
        from broker.schema.sessions import SessionView

        fields = ({} if after is None else {"after": after, "wait": wait}) | ({"refresh": "true"} if refresh else {})
        return self._get(_session(name) + encode_query(fields), SessionView, extra_time=wait)

    def start(self, name: str, request: StartRequest) -> SessionView:
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/start", SessionView, request)

    def stop(self, name: str) -> SessionView:
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/stop", SessionView)

    def delete(self, name: str, *, purge: bool = False) -> SessionView:
        """Delete the session; with `purge`, it cannot be restored."""
        from broker.schema.sessions import SessionView

        return self._send("DELETE", _session(name) + ("?purge=true" if purge else ""), SessionView)

    # Operations on  A call that takes long returns after a few seconds with a pending operation; follow it with
    # `session(name, after=…, wait=…)` until the operation of the same id is no longer pending. If the operation has
    # failed by then, its error is raised.

    def snapshot(self, name: str, request: SnapshotRequest) -> SessionView:
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/snapshots", SessionView, request)

    def snapshots(self, name: str) -> list[SnapshotView]:
        """Return the snapshots, oldest first."""
        from broker.schema.volumes import SnapshotList

        return self._get(_session(name) + "/snapshots", SnapshotList, extra_time=_LONG_CALL_S).snapshots

    def delete_snapshot(self, name: str, reference: str) -> SnapshotView:
        """Delete the snapshot with that number or label, and return it."""
        from broker.schema.volumes import SnapshotView

        path = f"{_session(name)}/snapshots/{quote_segment(reference)}"
        return self._send("DELETE", path, SnapshotView, extra_time=_LONG_CALL_S)

    def rollback(self, name: str, request: RollbackRequest) -> SessionView:
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/rollback", SessionView, request)

    def switch(self, name: str, request: SwitchRequest) -> SessionView:
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/switch", SessionView, request)

    def clone(self, name: str, request: CloneRequest) -> SessionView:
        """Clone the session; return the new one, which is stopped when its operation is done."""
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/clone", SessionView, request)

    def rename(self, name: str, request: RenameRequest) -> SessionView:
        """Rename a stopped session; return it under its new name."""
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/rename", SessionView, request)

    def diff(
        self, name: str, reference: str | None = None, until: str | None = None, *, content: bool = False
    ) -> DiffReport:
        """Compare the present state, or the snapshot `until`, with a snapshot or with the profile.

        It may take minutes, with `content` an hour.
        """
        from broker.schema.volumes import DiffReport

        ends = {"from": reference, "to": until, "content": "true" if content else None}
        query = encode_query({name: value for name, value in ends.items() if value is not None})
        return self._get(_session(name) + "/diff" + query, DiffReport, extra_time=_LONG_CALL_S)

    def size(self, name: str) -> SizeReport:
        """Return the disk usage. The first call counts all files, which may take minutes."""
        from broker.schema.volumes import SizeReport

        return self._get(_session(name) + "/size", SizeReport, extra_time=_LONG_CALL_S)

    def verify(self, name: str) -> VerifyReport:
        """Read every layer and compare it with its checksums; may take an hour."""
        from broker.schema.volumes import VerifyReport

        return self._send("POST", _session(name) + "/verify", VerifyReport, extra_time=_LONG_CALL_S)

    def flatten(self, name: str) -> SessionView:
        """Begin to merge the layers in the background; return at once."""
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/flatten", SessionView)

    def restart(self, name: str) -> SessionView:
        """Stop a session that has a job, and start it again; this ends root mode."""
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/restart", SessionView)

    def root(self, name: str) -> SessionView:
        """Stop the session and start it in root mode; `stop` ends root mode."""
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/root", SessionView)

    def commit_root(self, name: str) -> SessionView:
        """Keep the changes of root mode."""
        from broker.schema.sessions import SessionView

        return self._send("POST", _session(name) + "/root/commit", SessionView)

    def deleted_sessions(self) -> list[SessionView]:
        """Return the caller's deleted sessions that can be restored."""
        from broker.schema.sessions import DeletedList

        return self._get("/v1/deleted", DeletedList).sessions

    def restore(self, name: str, request: RestoreRequest) -> SessionView:
        """Restore the deleted session `name`, the last deleted one if there are several."""
        from broker.schema.sessions import SessionView

        return self._send("POST", f"/v1/deleted/{quote_segment(name)}/restore", SessionView, request)

    def gc(self, request: GcRequest) -> GcReport:
        """Remove layers that no stack refers to; may take an hour."""
        from broker.schema.volumes import GcReport

        return self._send("POST", "/v1/gc", GcReport, request, extra_time=_LONG_CALL_S)

    # Batch jobs

    def environments(self) -> list[EnvironmentView]:
        """Return the environments of the caller's batch jobs, oldest first."""
        from broker.schema.environments import EnvironmentList

        return self._get("/v1/environments", EnvironmentList).environments

    def make_environment(self, request: EnvironmentRequest) -> EnvironmentView:
        """Create an environment for a batch job; may take minutes for a large running session."""
        from broker.schema.environments import EnvironmentView

        return self._send("POST", "/v1/environments", EnvironmentView, request, extra_time=_LONG_CALL_S)

    def discard_environment(self, environment: str) -> list[EnvironmentView]:
        """Delete the environment if it exists; return the deleted ones."""
        from broker.schema.environments import EnvironmentList

        path = f"/v1/environments/{environment}"
        return self._send("DELETE", path, EnvironmentList, extra_time=_LONG_CALL_S).environments

    def promote(self, environment: str, request: PromoteRequest) -> SessionView:
        """Create a session from a job's environment; it is stopped when its operation is done."""
        from broker.schema.sessions import SessionView

        return self._send("POST", f"/v1/environments/{environment}/promote", SessionView, request)

    def log(self, name: str, *, tail: int = 65536) -> str:
        """Return the last `tail` bytes of the session's job log."""
        from broker.schema.site import LogText

        return self._get(f"{_session(name)}/log?bytes={tail}", LogText).text

    def events(self, name: str | None = None, *, connections: bool = True) -> list[EventView]:
        """Return the events of one or all of the caller's sessions; with `connections`, their connections, too."""
        from broker.schema.site import EventList

        path = "/v1/events" if name is None else _session(name) + "/events"
        return self._get(path + ("" if connections else "?connections=false"), EventList).events

    def connections(self, name: str, *, ended: bool = False) -> list[ConnectionView]:
        """Return the open connections; with `ended`, also recorded former ones."""
        from broker.schema.connections import ConnectionList

        path = _session(name) + "/connections" + ("?ended=true" if ended else "")
        return self._get(path, ConnectionList).connections

    def presence(self, name: str) -> ConnectionList:
        """Return the open connections and the number of open terminals."""
        from broker.schema.connections import ConnectionList

        return self._get(_session(name) + "/connections?terminals=true", ConnectionList)

    def note(self, record: ConnectionRecord) -> int:
        """Record a connection of the caller; return 0 if the session is unknown, else 1."""
        from broker.schema.connections import ConnectionReport, ConnectionsNoted

        report = ConnectionReport(connections=[record])
        return self._send("POST", "/v1/connections", ConnectionsNoted, report).noted

    def resolve(
        self, user: str, target: str, *, root: bool = False, tell: Callable[[str], None] = lambda _: None
    ) -> ResolveAnswer:
        """Return the endpoint of the session `target`, when it is ready; messages of refusals are safe for a terminal.

        `tell` is called with the session's state until then. A session in root mode requires `root`, other sessions
        refuse it.
        """
        from broker.schema.connections import ResolveAnswer, ResolveRequest

        request = ResolveRequest(user=user, target=target, root=root, patient=True, shown="")
        while True:
            try:
                return self._send("POST", "/v1/resolve", ResolveAnswer, request)
            except errors.WaitingError as error:
                tell(error.message)
                request = request.model_copy(update={"shown": error.message})

    def set_idle(self, name: str, idle: str | None) -> SessionView:
        """Set the idle time after which the session is stopped; None: the default of the profile or the site."""
        from broker.schema.sessions import IdleChoice, SessionView

        body = IdleChoice(idle=idle).model_dump_json()
        return parse_answer(SessionView, self._request("PUT", _session(name) + "/idle", body))

    def set_continuation(self, name: str, continuation: str | None) -> SessionView:
        """Set whether the session continues in a new job; None: the default of the profile or the site."""
        from broker.schema.sessions import ContinuationChoice, SessionView

        body = ContinuationChoice(continuation=continuation).model_dump_json()
        return parse_answer(SessionView, self._request("PUT", _session(name) + "/continuation", body))

    def set_stop_time(self, name: str, at: float | None, *, keep: bool = False) -> SessionView:
        """Set or clear the session's stop time; with `keep`, it continues until then."""
        from broker.schema.sessions import SessionView, StopTime

        return self._send("PUT", _session(name) + "/stop-time", SessionView, StopTime(at=at, keep=keep))

    def resize(self, name: str, options: list[str], present_job: PresentJob = "auto") -> SessionView:
        """Continue the session in a new job with these options."""
        from broker.schema.sessions import ResizeRequest, SessionView

        request = ResizeRequest(options=options, present_job=present_job)
        return self._send("POST", _session(name) + "/resize", SessionView, request)

    def withdraw_resize(self, name: str) -> SessionView:
        """Cancel the job of a resize that waits; the session keeps its present job."""
        from broker.schema.sessions import SessionView

        return self._send("DELETE", _session(name) + "/resize", SessionView)

    def check(self, name: str, request: CheckRequest) -> CheckReport:
        """Return if the controller would accept the request now; otherwise its error is raised. Nothing is changed."""
        from broker.schema.checks import CheckReport

        path = _session(name) + "/check"
        try:
            return self._send("POST", path, CheckReport, request)
        except errors.NotFoundError as error:
            if error.message != f"POST {path}: Not Found":
                raise
            raise errors.ControllerUnavailableError(
                "the controller has an earlier version, which cannot check requests",
                hint="it must be restarted: in site mode by the operators; in personal mode it ends when it is idle",
            ) from error

    def extend(self, name: str, seconds: float) -> SessionView:
        """Extend the time limit of the session's job."""
        from broker.schema.sessions import ExtendRequest, SessionView

        body = ExtendRequest(seconds=seconds).model_dump_json()
        return parse_answer(SessionView, self._request("POST", _session(name) + "/extend", body))

    def jobs(self, name: str) -> list[JobView]:
        """Return the jobs of the session, the latest first."""
        from broker.schema.sessions import JobList

        return parse_answer(JobList, self._request("GET", _session(name) + "/jobs")).jobs

    def set_connecting(self, name: str, policy: ConnectPolicy) -> SessionView:
        """Change the policy for connections; only the fields that are set in `policy`."""
        from broker.schema.sessions import SessionView

        body = policy.model_dump_json(exclude_unset=True)
        return parse_answer(SessionView, self._request("PATCH", _session(name) + "/connecting", body))

    def cluster(self) -> ClusterView:
        """Return nodes, partitions and queue as Slurm last showed them."""
        from broker.schema.cluster import ClusterView

        return self._get("/v1/cluster", ClusterView)

    def doctor(self) -> list[DoctorCheck]:
        from broker.schema.site import DoctorReport

        return self._get("/v1/doctor", DoctorReport).checks

    def rebuild(self) -> RebuildReport:
        """Rebuild the registry from the sessions' manifests; may take minutes."""
        from broker.schema.site import RebuildReport

        return self._send("POST", "/v1/rebuild", RebuildReport, extra_time=3600)


def _session(name: str) -> str:
    return f"/v1/sessions/{quote_segment(name)}"
