"""Connecting to a session: where it listens, or else to have it started, to wait, and to be told how far it is."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from broker import access
from broker.access import Verb
from broker.changes import Changes
from broker.errors import ConflictError, WaitingError
from broker.hostnames import SessionHost
from broker.launcher_error import LauncherError
from broker.manifest import Manifest
from broker.registry import Entry
from broker.schema import ResolveAnswer, SessionState, StartRequest
from broker.state import LIVE, STARTABLE
from broker.words import clock, duration, end_words, state_words

if TYPE_CHECKING:
    from broker.config import SshSettings
    from broker.launching import Launcher
    from broker.logins import Logins
    from broker.models import Session
    from broker.reconcile import Reconciler
    from broker.registry import Decide, Decision, Registry
    from broker.schema import ConnectPolicy, SessionView
    from broker.sessions import Sessions

log = logging.getLogger(__name__)

AT_ONCE, AT_MOST = 2.0, 20.0
"""Seconds that one question waits for an answer, the first of a connection and the later ones: the gateway has few
connections to the controller for the first, which every log-in needs, and many for those that wait."""
SETTLES = 60.0
"""Seconds for which connecting does not start a session again that was stopped, or has failed: IDEs connect again by
themselves, and would undo the stop, or have one job after the other fail."""
GOES_ON = frozenset({"", "COMPLETED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "LOST"})
"""Ends of a job that are neither its owner's wish nor the session's own fault."""
ON_ITS_WAY = (LIVE - {SessionState.READY}) | {SessionState.CHANGING}


class Connecting:
    """Every call asks `access` first."""

    def __init__(
        self,
        *,
        registry: Registry,
        sessions: Sessions,
        launcher: Launcher,
        reconciler: Reconciler,
        logins: Logins,
        changes: Changes,
        settings: SshSettings,
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._launcher = launcher
        self._reconciler = reconciler
        self._logins = logins
        self._changes = changes
        self._settings = settings

    async def connect(
        self, user: str, target: str, *, root: bool = False, waited: float = 0.0, patient: bool = False
    ) -> ResolveAnswer:
        """Where the session that `target` names listens, for a connection of `user`; `root`: of `berth exec --root`.

        Every refusal is a BerthError whose message is meant for the terminal; WaitingError asks for the same question
        again. The session's authorized_keys are brought up to date first, so that whoever the gateway lets in is let
        in by the session too.
        """
        host = SessionHost.parse(target, self._settings.domain, user)
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = before = ""
        while True:
            change = self._changes.next()
            session = await asyncio.to_thread(access.resolve, self._registry, user, host.owner, host.name, Verb.CONNECT)
            _check_login(session, root=root)
            if session.endpoint is not None:
                break
            if root:
                raise ConflictError(self._how_far(session), hint="try again in a moment")
            if session.state in STARTABLE:
                before = f"; it had stopped: {session.reason}" if session.reason else ""
                session = await self._started(session)
            self._check_on_its_way(session)
            far = self._how_far(session) + before
            first = first or far
            passed = loop.time() - began
            left = self._wait_of(session) - waited - passed
            if left <= 0 and not patient:
                raise ConflictError(
                    far, hint=f"it goes on: connect again in a while, or see `berth show {session.name}`"
                )
            turn = (AT_MOST if waited or patient else AT_ONCE) - passed
            if turn <= 0 or (patient and far != first):
                raise WaitingError(far)
            await Changes.until(change, turn if patient else min(left, turn))
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

    async def set_policy(self, user: str, name: str, policy: ConnectPolicy) -> SessionView:
        """Change what connecting to the session does, as far as `policy` says anything of it."""
        session = await asyncio.to_thread(access.resolve, self._registry, user, user, name, Verb.SET)
        session = await asyncio.to_thread(self._registry.update, session.id, _set(user, policy))
        self._changes.notify()
        try:
            await self._launcher.install(session.owner, session.id, {"manifest.json": Manifest.of(session).text})
        except LauncherError as error:  # the next start writes it
            log.warning("the manifest of %s is behind: %s", session.id, error.message)
        return session.view(self._reconciler.stale_since)

    async def notices(self, user: str) -> list[str]:
        """What is on its way, and what ends soon, one line a session."""
        sessions = await asyncio.to_thread(self._registry.sessions_of, user)
        now = time.time()
        return [
            self._how_far(session)
            for session in sessions
            if session.state in ON_ITS_WAY or end_words(session.view(), now)
        ]

    async def _started(self, session: Session) -> Session:
        """Have it started, if that is how it is to be; raises why not."""
        start = f"`berth start {session.name}` starts it"
        chosen = session.connect_policy.start
        if not (self._settings.start_on_connect if chosen is None else chosen):
            raise ConflictError(f"{self._how_far(session)}; {start}")
        ago = None if session.ended_at is None else time.time() - session.ended_at
        if ago is not None and ago < SETTLES and not _was_well(session):
            wait = duration(SETTLES - ago)
            raise ConflictError(
                f"{self._how_far(session)}, {duration(ago)} ago", hint=f"{start}; connecting does it in {wait}"
            )
        await self._sessions.start(session.owner, session.name, StartRequest(), why="by connecting")
        now = await asyncio.to_thread(self._registry.get, session.id)
        assert now is not None
        return now

    def _check_on_its_way(self, session: Session) -> None:
        """ConflictError for a session that will not become ready by waiting."""
        if session.state not in ON_ITS_WAY | {SessionState.READY}:
            raise ConflictError(self._how_far(session))

    def _wait_of(self, session: Session) -> float:
        chosen = session.connect_policy.wait
        return self._settings.connect_wait if chosen is None else chosen

    def _how_far(self, session: Session) -> str:
        stale = self._reconciler.stale_since
        since = "" if stale is None else f" (as of {clock(stale)}; Slurm does not answer)"
        return f"{session.name} is {state_words(session.view(stale), time.time())}{since}"

    async def _refresh_keys(self, session: Session) -> None:
        login = await self._logins.of(session.owner)
        if (digest := login.digest) != session.keys_digest:
            try:
                await self._launcher.install(session.owner, session.id, login.files)
            except LauncherError as error:  # a full disk must not lock out whoever comes to tidy it up
                log.warning("the keys of %s could not be brought up to date: %s", session.id, error.message)
                return
            await asyncio.to_thread(self._registry.update, session.id, lambda _: ({"keys_digest": digest}, None))


def _was_well(session: Session) -> bool:
    """Whether its last job ended for a reason that starting it again does not meet again: it had been ready, too."""
    return session.outcome in GOES_ON and session.fingerprint != ""


def _set(user: str, policy: ConnectPolicy) -> Decide:
    def decide(now: Session) -> Decision | None:
        changed = policy.model_dump(include=policy.model_fields_set)
        detail = ", ".join(f"{name}={'default' if value is None else value}" for name, value in changed.items())
        return {"connecting": now.connecting | changed}, Entry(user, "set", detail)

    return decide


def _check_login(session: Session, *, root: bool) -> None:
    """In root mode a session lets in `root` and nobody else, at other times everybody but `root`."""
    if session.root and not root:
        raise ConflictError(
            f"{session.name} is in root mode for `berth exec --root`; `berth stop {session.name}` ends it"
        )
    if root and not session.root:
        raise ConflictError(f"{session.name} is not in root mode")
