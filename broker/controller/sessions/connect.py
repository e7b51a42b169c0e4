"""Connect to a session: return its endpoint, or else start it, wait, and report the progress."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.controller.sessions import access
from broker.controller.wakeup import ChangeNotifier
from broker.errors import BerthError, ConflictError, WaitingError
from broker.format import format_duration, format_time
from broker.schema.connections import ResolveAnswer
from broker.schema.permissions import Permission
from broker.schema.sessions import LIVE, STARTABLE, SessionState, StartRequest
from broker.single_flight import SingleFlight
from broker.ssh.host_names import SessionHost
from broker.status_text import describe_deadline, describe_state

if TYPE_CHECKING:
    from broker.config.settings import SshSettings
    from broker.controller.credentials.login import LoginPolicy
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.loop import Reconciler
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.sessions.lifecycle import Sessions
    from broker.schema.sessions import SessionView

log = logging.getLogger(__name__)

AT_ONCE, AT_MOST = 2.0, 20.0
"""Seconds that one question waits for an answer, the first of a connection and the later ones: the gateway has few
connections to the controller for the first, which every log-in needs, and many for those that wait."""
SETTLES = 60.0
"""Seconds for which connecting does not start a session again that was stopped, or has failed: IDEs connect again by
themselves, and would undo the stop, or have one job after the other fail."""
STARTS_WITHIN_S = 0.5
"""Seconds that a question that is not held waits for the start that it asks for: sbatch mostly takes less, and then the
answer has Slurm's words. Each such question has one of the gateway's few connections."""
FAILURE_KNOWN_S = 120.0
"""Seconds for which those who have waited for a start hear why it failed; they ask again after `AT_MOST`."""
GOES_ON = frozenset({"", "COMPLETED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "LOST"})
"""Ends of a job that are neither its owner's wish nor the session's own fault."""
ON_ITS_WAY = (LIVE - {SessionState.READY}) | {SessionState.CHANGING}


class ConnectService:
    """Requests to connect. Each call asks `access` first."""

    def __init__(
        self,
        *,
        registry: AsyncRegistry,
        sessions: Sessions,
        launcher: LauncherClient,
        reconciler: Reconciler,
        logins: LoginPolicy,
        changes: ChangeNotifier,
        settings: SshSettings,
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._launcher = launcher
        self._reconciler = reconciler
        self._logins = logins
        self._changes = changes
        self._settings = settings
        self._starts = SingleFlight[str, "SessionView"](self._start_ended)
        """By session: the start that connecting has begun, one for all clients. It continues when they leave."""
        self._failures: dict[str, tuple[BerthError, float]] = {}
        """By session: the reason and the time of the last start that failed."""

    async def connect(
        self,
        user: str,
        target: str,
        *,
        root: bool = False,
        waited: float = 0.0,
        patient: bool = False,
        hold: bool = True,
        gone: asyncio.Event | None = None,
    ) -> ResolveAnswer:
        """Return where the session that `target` names listens, for `user`; `root`: for `berth exec --root`.

        Every refusal is a BerthError whose message is meant for the terminal; WaitingError asks for the same question
        again: at once with `hold`, and otherwise after the change that the error names. The call stops waiting when
        `gone` is set. The session's authorized_keys are brought up to date first, so that its sshd lets in the same
        keys as the gateway.
        """
        host = SessionHost.parse(target, self._settings.domain, user)
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = before = ""
        while True:
            change = self._changes.next()
            session = await access.resolve(self._registry, user, host.owner, host.name, Permission.CONNECT)
            _check_login(session, root=root)
            if session.endpoint is not None:
                break
            if root:
                raise ConflictError(self._how_far(session), hint="try again in a moment")
            begins = session.state in STARTABLE
            if begins:
                before = f"; it had stopped: {session.reason}" if session.reason else ""
                session, begins = await self._started(session, waited=waited, hold=hold)
            if not begins:
                self._check_on_its_way(session)
            far = f"{session.name} is being started" if begins else self._how_far(session) + before
            first = first or far
            passed = loop.time() - began
            left = self._wait_of(session) - waited - passed
            if left <= 0 and not patient:
                raise ConflictError(
                    far, hint=f"it goes on: connect again in a while, or see `berth show {session.name}`"
                )
            if not hold:
                seconds = AT_MOST if patient else min(left, AT_MOST)
                raise WaitingError(far, session_id=session.id, revision=session.revision, seconds=seconds)
            turn = (AT_MOST if waited or patient else AT_ONCE) - passed
            if turn <= 0 or (patient and far != first) or (gone is not None and gone.is_set()):
                raise WaitingError(far)
            await ChangeNotifier.until(change, turn if patient else min(left, turn), gone)
        await self._refresh_keys(session)
        return ResolveAnswer(
            session_id=session.id,
            owner=session.owner,
            name=session.name,
            generation=session.generation,
            host=session.endpoint.node,
            port=session.endpoint.port,
            fingerprint=session.endpoint.fingerprint,
        )

    async def changed(self, known: dict[str, int], seconds: float, gone: asyncio.Event | None = None) -> list[str]:
        """Return the ids of the sessions that have another revision than the one that is `known`, as soon as one has;
        none after `seconds`, or when `gone` is set. A session that does not exist has another one.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds
        while True:
            change = self._changes.next()
            now = await self._registry.revisions(known)
            changed = [session_id for session_id, revision in known.items() if now.get(session_id) != revision]
            left = ends - loop.time()
            if changed or left <= 0 or (gone is not None and gone.is_set()):
                return changed
            await ChangeNotifier.until(change, left, gone)

    async def notices(self, user: str) -> list[str]:
        """What is on its way, and what ends soon, one line a session."""
        sessions = await self._registry.sessions_of(user)
        now = time.time()
        return [
            self._how_far(session)
            for session in sessions
            if session.state in ON_ITS_WAY or describe_deadline(session.view(), now)
        ]

    async def _started(self, session: Session, *, waited: float, hold: bool) -> tuple[Session, bool]:
        """Start the session if connecting may do so. Return whether the start is still under way; raise its failure."""
        if session.id not in self._starts:
            self._raise_failure(session, waited)
            self._check_start(session)
        task = self._starts.join(session.id, lambda: self._start(session))
        if hold:
            await asyncio.shield(task)  # others wait for the same start
        else:
            await asyncio.wait({task}, timeout=STARTS_WITHIN_S)
            if task.done():
                task.result()
        now = await self._registry.get(session.id)
        assert now is not None
        return now, now.state in STARTABLE and not task.done()

    def _check_start(self, session: Session) -> None:
        """ConflictError for a session that connecting does not start."""
        start = f"`berth start {session.name}` starts it"
        chosen = session.connect_policy.start
        if not (self._settings.start_on_connect if chosen is None else chosen):
            raise ConflictError(f"{self._how_far(session)}; {start}")
        ago = None if session.job.ended_at is None else time.time() - session.job.ended_at
        if ago is not None and ago < SETTLES and not _was_well(session):
            wait = format_duration(SETTLES - ago)
            raise ConflictError(
                f"{self._how_far(session)}, {format_duration(ago)} ago", hint=f"{start}; connecting does it in {wait}"
            )

    async def _start(self, session: Session) -> SessionView:
        try:
            return await self._sessions.start(session.owner, session.name, StartRequest(), why="by connecting")
        except BerthError as error:
            self._note_failure(session.id, error)
            raise

    def _start_ended(self, _: str, task: asyncio.Task[SessionView]) -> None:
        if not task.cancelled():
            task.exception()  # those who asked for the start may have left; its reason is noted
        self._changes.notify()

    def _note_failure(self, session_id: str, error: BerthError) -> None:
        now = asyncio.get_running_loop().time()
        self._failures = {each: at for each, at in self._failures.items() if now - at[1] < FAILURE_KNOWN_S}
        self._failures[session_id] = (error, now)

    def _raise_failure(self, session: Session, waited: float) -> None:
        """Raise why the session could not be started, to those who have waited for that start; others start anew."""
        error, at = self._failures.get(session.id, (None, 0.0))
        if error is not None and asyncio.get_running_loop().time() - at <= min(waited, FAILURE_KNOWN_S):
            raise error.with_traceback(None)

    def _check_on_its_way(self, session: Session) -> None:
        """ConflictError for a session that will not become ready by waiting."""
        if session.state not in ON_ITS_WAY | {SessionState.READY}:
            raise ConflictError(self._how_far(session))

    def _wait_of(self, session: Session) -> float:
        chosen = session.connect_policy.wait
        return self._settings.connect_wait if chosen is None else chosen

    def _how_far(self, session: Session) -> str:
        stale = self._reconciler.stale_since
        since = "" if stale is None else f" (as of {format_time(stale)}; Slurm does not answer)"
        return f"{session.name} is {describe_state(session.view(stale), time.time())}{since}"

    async def _refresh_keys(self, session: Session) -> None:
        login = await self._logins.of(session.owner)
        if (digest := login.digest) != session.keys_digest:
            try:
                await self._launcher.install(session.owner, session.id, login.files)
            except LauncherError as error:  # a full disk must not lock out whoever comes to tidy it up
                log.warning("the keys of %s could not be brought up to date: %s", session.id, error.message)
                return
            await self._registry.update(session.id, lambda _: ({"keys_digest": digest}, None))


def _was_well(session: Session) -> bool:
    """Whether its last job ended for a reason that starting it again does not meet again: it had been ready, too."""
    return session.job.outcome in GOES_ON and session.job.fingerprint != ""


def _check_login(session: Session, *, root: bool) -> None:
    """In root mode a session lets in `root` and nobody else, at other times everybody but `root`."""
    if session.root and not root:
        raise ConflictError(
            f"{session.name} is in root mode for `berth exec --root`; `berth stop {session.name}` ends it"
        )
    if root and not session.root:
        raise ConflictError(f"{session.name} is not in root mode")
