"""Resolve where to connect for a session, for the gateway, `berth ssh` and `berth connect` (`POST /v1/resolve`).

No connection is made here: the answer is the endpoint of the session's sshd, and the caller connects to it. If the
session has no endpoint, the controller starts it if its policy allows that, waits, and reports the progress.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from broker.controller import clock
from broker.controller.sessions.guests import check_open
from broker.controller.sessions.status_line import status_line
from broker.errors import BerthError, ConflictError, WaitingError
from broker.format import format_duration
from broker.schema.connections import ResolveAnswer
from broker.schema.permissions import Permission
from broker.schema.sessions import LIVE, STARTABLE, SessionState, StartRequest
from broker.single_flight import SingleFlight
from broker.ssh.host_names import SessionHost
from broker.text.status import describe_notices

if TYPE_CHECKING:
    from broker.config.settings import SshSettings
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.sessions.guests import GuestService
    from broker.controller.sessions.installed_credentials import InstalledCredentials
    from broker.controller.sessions.lifecycle import Sessions
    from broker.controller.wakeup import ChangeNotifier
    from broker.schema.grants import Role
    from broker.schema.sessions import Endpoint, SessionView


FIRST_POLL_S, LATER_POLL_S = 2.0, 20.0
"""Seconds that the first query of a connection waits, and each later one. Every login needs a first query, for which
the gateway has few connections to the controller; it has many for the queries that wait."""
RESTART_BACKOFF_S = 60.0
"""Seconds for which a connection does not restart a session that was stopped or has failed. IDEs reconnect by
themselves; they would undo the stop, or start one failing job after the other."""
START_WAIT_S = 0.5
"""Seconds that a query without `hold` waits for the start that it requests. sbatch usually takes less, and the answer
then has Slurm's message. Each such query uses one of the gateway's few connections."""
FAILURE_TTL_S = 120.0
"""Seconds for which the reason of a failed start is kept for the clients that waited for it. They query again after
`LATER_POLL_S`."""
CLEAN_OUTCOMES = frozenset({"", "COMPLETED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "LOST"})
"""Outcomes of a job that neither its owner requested nor the session caused."""
STARTING_STATES = (LIVE - {SessionState.READY}) | {SessionState.CHANGING}
STATES_WITH_NOTICES = STARTING_STATES | {SessionState.READY}
"""Only these sessions are read for a login: most sessions of a user with many are stopped."""


class ConnectService:
    """The controller's part in connections to sessions: it resolves endpoints, and checks access before it answers."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        sessions: Sessions,
        reconciler: Reconciler,
        credentials: InstalledCredentials,
        guests: GuestService,
        changes: ChangeNotifier,
        settings: SshSettings,
    ) -> None:
        self._access = access
        self._registry = registry
        self._sessions = sessions
        self._reconciler = reconciler
        self._credentials = credentials
        self._guests = guests
        self._changes = changes
        self._settings = settings
        self._starts = SingleFlight[str, "SessionView"](self._start_ended)
        """The start that a connection has requested, by session, one for all clients. It continues when they leave."""
        self._failures: dict[str, tuple[BerthError, float]] = {}
        """The reason and the time of the last failed start, by session."""

    async def connect(
        self,
        user: str,
        target: str,
        *,
        root: bool = False,
        waited: float = 0.0,
        patient: bool = False,
        shown: str | None = None,
        hold: bool = True,
        gone: asyncio.Event | None = None,
    ) -> ResolveAnswer:
        """Resolve `target`, a host name of a session, to the endpoint to which `user` may connect. Open no connection.

        `root`: for `berth exec --root`.

        Every refusal is a BerthError with a message for the terminal. After a WaitingError the client repeats the
        query: at once with `hold`, otherwise after the change that the error names. A `patient` client gets one as soon
        as the state is not the `shown` one. The call stops waiting when `gone` is set.

        The call updates the session's authorized_keys first, so that sshd and gateway accept the same keys.
        """
        host = SessionHost.parse(target, self._settings.domain, user)
        if host.owner != user:
            return await self._admit_guest(user, f"{host.owner}.{host.name}")
        loop = asyncio.get_running_loop()
        began = loop.time()
        before = ""
        while True:
            seen = self._changes.number
            session = await self._access.resolve(user, f"{host.owner}.{host.name}", Permission.CONNECT)
            check_login(session, root=root)
            if session.endpoint is not None:
                break
            if root:
                raise ConflictError(self._status_line(session), hint="try again in a moment")
            starting = session.state in STARTABLE
            if starting:
                before = f"; it had stopped: {session.reason}" if session.reason else ""
                waited_so_far = waited + loop.time() - began
                session, starting = await self._start_on_connect(session, waited=waited_so_far, hold=hold)
            if not starting:
                self._check_starting(session)
            status = f"{session.name} is being started" if starting else self._status_line(session) + before
            shown = status if shown is None else shown
            passed = loop.time() - began
            left = self._wait_of(session) - waited - passed
            if left <= 0 and not patient:
                raise ConflictError(status, hint=f"connect again shortly, or run `berth show {session.name}`")
            if not hold:
                seconds = LATER_POLL_S if patient else min(left, LATER_POLL_S)
                raise WaitingError(status, session_id=session.id, revision=session.revision, seconds=seconds)
            poll_left = (LATER_POLL_S if waited or patient else FIRST_POLL_S) - passed
            if poll_left <= 0 or (patient and status != shown) or (gone is not None and gone.is_set()):
                raise WaitingError(status)
            await self._changes.wait([session.id], seen, poll_left if patient else min(left, poll_left), gone)
        await self._credentials.refresh(session)
        return _answer(session, session.endpoint)

    async def _admit_guest(self, user: str, reference: str) -> ResolveAnswer:
        """Let a guest in. A guest's connection neither starts the session nor waits for it."""
        session = await self._access.resolve(user, reference, Permission.WATCH)
        check_open(session)
        session, guest = await self._guests.admit(user, session.id)
        assert session.endpoint is not None
        return _answer(session, session.endpoint, guest.role)

    async def wait_for_changes(
        self, known: dict[str, int], seconds: float, gone: asyncio.Event | None = None
    ) -> list[str]:
        """Wait until a session's revision differs from the `known` one, and return the ids of all such sessions.

        Return none after `seconds`, or when `gone` is set. A session that does not exist counts as changed.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while True:
            seen = self._changes.number
            current = await self._registry.revisions(known)
            changed = [session_id for session_id, revision in known.items() if current.get(session_id) != revision]
            left = ends - loop.time()
            if changed or left <= 0 or (gone is not None and gone.is_set()):
                return changed
            await self._changes.wait(known, seen, left, gone)

    async def notices(self, user: str) -> dict[str, str]:
        """Return one line, by name, for each session that is starting or changing, will end or stop soon, or may lose
        its node.

        If the user has one session only, its line is also there by the empty name.
        """
        sessions = await self._registry.sessions_of(user, STATES_WITH_NOTICES)
        now = clock.now()
        lines = {
            session.name: self._status_line(session)
            for session in sessions
            if session.state in STARTING_STATES or describe_notices(session.view(), now)
        }
        if len(lines) == 1 and await self._registry.has_one_session(user):
            lines |= {"": lines[sessions[0].name]}
        return lines

    async def _start_on_connect(self, session: Session, *, waited: float, hold: bool) -> tuple[Session, bool]:
        """Start the session if a connection may do so. Return whether the start still runs, or raise its error."""
        if session.id not in self._starts:
            self._raise_failure(session, waited)
            self._check_start(session)
        task = self._starts.join(session.id, lambda: self._start(session))
        if hold:
            await asyncio.shield(task)  # others wait for the same start
        else:
            await asyncio.wait({task}, timeout=START_WAIT_S)
            if task.done():
                task.result()
        current = await self._registry.get(session.id)
        assert current is not None
        return current, current.state in STARTABLE and not task.done()

    def _check_start(self, session: Session) -> None:
        """Raise ConflictError for a session that a connection does not start."""
        start = f"`berth start {session.name}` starts it"
        chosen = session.connect_policy.start
        if not (self._settings.start_on_connect if chosen is None else chosen):
            raise ConflictError(f"{self._status_line(session)}; {start}")
        ago = None if session.job.ended_at is None else clock.now() - session.job.ended_at
        if ago is not None and ago < RESTART_BACKOFF_S and not _has_ended_cleanly(session):
            wait = format_duration(RESTART_BACKOFF_S - ago)
            raise ConflictError(
                f"{self._status_line(session)}, {format_duration(ago)} ago",
                hint=f"{start}; connecting does it in {wait}",
            )

    async def _start(self, session: Session) -> SessionView:
        try:
            return await self._sessions.start(session.owner, session.name, StartRequest(), why="by connecting")
        except BerthError as error:
            self._note_failure(session.id, error)
            raise

    def _start_ended(self, session_id: str, task: asyncio.Task[SessionView]) -> None:
        if not task.cancelled():
            task.exception()  # the clients may have disconnected; `_failures` has the reason
        self._changes.notify(session_id)

    def _note_failure(self, session_id: str, error: BerthError) -> None:
        now = asyncio.get_running_loop().time()
        self._failures = {each: at for each, at in self._failures.items() if now - at[1] < FAILURE_TTL_S}
        self._failures[session_id] = (error, now)

    def _raise_failure(self, session: Session, waited: float) -> None:
        """Raise the error of the last start if it ended while this client waited. Another client may start it again."""
        error, at = self._failures.get(session.id, (None, 0.0))
        if error is not None and asyncio.get_running_loop().time() - at <= min(waited, FAILURE_TTL_S):
            raise error.with_traceback(None)

    def _check_starting(self, session: Session) -> None:
        """Raise ConflictError for a session that will not become ready."""
        if session.state not in STARTING_STATES | {SessionState.READY}:
            raise ConflictError(self._status_line(session))

    def _wait_of(self, session: Session) -> float:
        chosen = session.connect_policy.wait
        return self._settings.connect_wait if chosen is None else chosen

    def _status_line(self, session: Session) -> str:
        return status_line(self._reconciler.observed, session)


def _answer(session: Session, endpoint: Endpoint, role: Role | None = None) -> ResolveAnswer:
    return ResolveAnswer(
        session_id=session.id,
        owner=session.owner,
        name=session.name,
        generation=session.generation,
        host=endpoint.node,
        port=endpoint.port,
        fingerprint=endpoint.fingerprint,
        role=role,
    )


def _has_ended_cleanly(session: Session) -> bool:
    """Whether the session's last job was ready, and ended for a reason that a restart does not meet again."""
    return session.job.outcome in CLEAN_OUTCOMES and session.job.fingerprint != ""


def check_login(session: Session, *, root: bool) -> None:
    """Raise ConflictError if `root` differs from the session's mode: root mode accepts only `berth exec --root`."""
    if session.root and not root:
        raise ConflictError(
            f"{session.name} is in root mode, for commands as root; `berth stop {session.name}` ends it"
        )
    if root and not session.root:
        raise ConflictError(f"{session.name} is not in root mode")
