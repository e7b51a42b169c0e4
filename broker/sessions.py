"""What people do with sessions: start, stop, delete, look, connect. Each call records an intent and wakes those who
carry it out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from broker import access, authorized
from broker.access import Verb
from broker.changes import Changes
from broker.errors import ConflictError, InvalidInputError, NotFoundError
from broker.failpoints import failpoint
from broker.hostnames import SessionHost
from broker.identifiers import new_id
from broker.launching import LauncherError
from broker.models import Session
from broker.registry import Entry
from broker.schema import EventView, ResolveAnswer, SessionState, SessionView, StartRequest
from broker.state import LIVE, STARTABLE
from profiles.errors import ProfilesError
from slurm.sbatch import OptionError, check_options

if TYPE_CHECKING:
    from broker.authorized import AuthorizedKeys
    from broker.launching import Launcher
    from broker.reconcile import Reconciler
    from broker.registry import Decide, Decision, Registry
    from broker.submission import Submitter
    from profiles.store import Image, Stores

log = logging.getLogger(__name__)

ANSWER_WITHIN = 8.0
"""Seconds that `start` waits for Slurm's yes or no before it answers with a session that is still being submitted."""


class Sessions:
    """The verbs. Every one of them asks `access` first."""

    def __init__(
        self,
        *,
        registry: Registry,
        stores: Stores,
        launcher: Launcher,
        submitter: Submitter,
        reconciler: Reconciler,
        keys: AuthorizedKeys,
        changes: Changes,
        domain: str,
    ) -> None:
        self._registry = registry
        self._stores = stores
        self._launcher = launcher
        self._submitter = submitter
        self._reconciler = reconciler
        self._keys = keys
        self._changes = changes
        self._domain = domain

    async def start(self, user: str, name: str, request: StartRequest) -> SessionView:
        """Make the session if it is new and submit its job; a session that is on its way or ready is left as it is.

        RefusedError with Slurm's words if Slurm will not have the job, ConflictError for a session that is in the way.
        """
        _check(request.options)
        session = await asyncio.to_thread(self._registry.find, user, name)
        if session is None:
            session = await self._create(user, name, request)
        elif session.state in LIVE - {SessionState.STOPPING}:
            _check_unchanged(session, request)
            return self._view(session)
        else:
            seen = session.submission
            session = await asyncio.to_thread(self._registry.update, session.id, _restart(user, request))
            if session.submission == seen:
                return self._view(session)  # somebody else was faster and has started it
        failpoint("start.intent-recorded")
        self._changes.notify()
        attempt = self._submitter.submit(session)
        done, _ = await asyncio.wait({attempt}, timeout=ANSWER_WITHIN)
        self._reconciler.wake()
        return await self._now(session.id) if not done else self._view(attempt.result())

    async def stop(self, user: str, name: str) -> SessionView:
        """Ask for the session's end; its data stays. A stopped one stays as it is."""
        session = await self._resolve(user, name, Verb.STOP)
        session = await asyncio.to_thread(self._registry.update, session.id, _stop(user))
        failpoint("stop.intent-recorded")
        self._changed()
        return self._view(session)

    async def delete(self, user: str, name: str) -> SessionView:
        """Remove a session that has no job, with all its data; ConflictError while it may have one."""
        session = await self._resolve(user, name, Verb.DELETE)
        session = await asyncio.to_thread(self._registry.update, session.id, _delete(user))
        failpoint("delete.intent-recorded")
        self._changed()
        return self._view(session)

    async def all(self, user: str) -> list[SessionView]:
        return [self._view(session) for session in await asyncio.to_thread(self._registry.sessions_of, user)]

    async def show(self, user: str, name: str, *, after: int | None = None, wait: float = 0) -> SessionView:
        """The session; with `after`, as soon as its revision is above that, or unchanged after `wait` seconds."""
        deadline = time.monotonic() + wait
        while True:
            change = self._changes.next()
            session = await self._resolve(user, name, Verb.SEE)
            left = deadline - time.monotonic()
            if after is None or session.revision > after or left <= 0:
                return self._view(session)
            await Changes.until(change, left)

    async def log(self, user: str, name: str, tail: int) -> str:
        session = await self._resolve(user, name, Verb.LOG)
        return await self._launcher.log(session.owner, session.id, tail)

    async def events(self, user: str, name: str | None = None) -> list[EventView]:
        session_id = None if name is None else (await self._resolve(user, name, Verb.SEE)).id
        rows = await asyncio.to_thread(self._registry.events_of, user, session_id)
        return [
            EventView(at=row.at, actor=row.actor, session=row.session, action=row.action, detail=row.detail)
            for row in rows
        ]

    async def connect(self, user: str, target: str) -> ResolveAnswer:
        """Where the session that `target` names listens, for a connection of `user`.

        Every refusal is a BerthError whose message is meant for the terminal. The session's authorized_keys are
        brought up to date first, so that whoever the gateway lets in is let in by the session too.
        """
        host = SessionHost.parse(target, self._domain, user)
        session = await asyncio.to_thread(access.resolve, self._registry, user, host.owner, host.name, Verb.CONNECT)
        if session.endpoint is None:
            raise ConflictError(_why_not(session))
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

    async def _create(self, user: str, name: str, request: StartRequest) -> Session:
        if request.profile is None:
            raise NotFoundError(
                f"you have no session named {name}", hint="to make it, name a profile: --profile P[@VERSION]"
            )
        image = await asyncio.to_thread(self._image, request.profile, request.version)
        now = time.time()
        session = Session(
            id=new_id(now),
            name=name,
            owner=user,
            state=SessionState.SUBMITTING,
            profile=image.name,
            version=image.version,
            digest=image.digest,
            image_path=str(image.path),
            image_size=image.size,
            options=request.options,
            created_at=now,
            submission=1,
        )
        return await asyncio.to_thread(
            self._registry.create, session, Entry(user, "start", f"{image.name}@{image.version}")
        )

    def _image(self, profile: str, version: str | None) -> Image:
        try:
            return self._stores.find(profile, version)
        except ProfilesError as error:
            raise NotFoundError(error.message, hint=error.hint) from error

    async def _refresh_keys(self, session: Session) -> None:
        lines = await self._keys.lines(session.owner)
        digest = authorized.digest_of(lines)
        if digest != session.keys_digest:
            files = {"authorized_keys": authorized.text_of(lines)}
            try:
                await self._launcher.install(session.owner, session.id, files)
            except LauncherError as error:  # a full disk must not lock out whoever comes to tidy it up
                log.warning("the keys of %s could not be brought up to date: %s", session.id, error.message)
                return
            await asyncio.to_thread(self._registry.update, session.id, lambda _: ({"keys_digest": digest}, None))

    async def _resolve(self, user: str, name: str, verb: Verb) -> Session:
        return await asyncio.to_thread(access.resolve, self._registry, user, user, name, verb)

    async def _now(self, session_id: str) -> SessionView:
        session = await asyncio.to_thread(self._registry.get, session_id)
        assert session is not None
        return self._view(session)

    def _view(self, session: Session) -> SessionView:
        return session.view(self._reconciler.stale_since)

    def _changed(self) -> None:
        self._changes.notify()
        self._reconciler.wake()


def _check(options: list[str]) -> None:
    try:
        check_options(options)
    except OptionError as error:
        raise InvalidInputError(str(error)) from error


def _check_unchanged(session: Session, request: StartRequest) -> None:
    """Starting a live session again is fine, but not with other words: they would be silently ignored."""
    _check_profile(session, request)
    if request.options and request.options != session.options:
        raise ConflictError(
            f"{session.name} is {session.state.value} with other options",
            hint=f"`berth stop {session.name}` first; the options then hold from the next start on",
        )


def _check_profile(session: Session, request: StartRequest) -> None:
    other = request.profile not in {None, session.profile} or request.version not in {None, session.version}
    if other:
        raise ConflictError(
            f"{session.name} was made from {session.profile}@{session.version}",
            hint=f"leave --profile out, or use another name: `berth start NAME --profile {request.profile}`",
        )


def _restart(user: str, request: StartRequest) -> Decide:
    def decide(now: Session) -> Decision | None:
        if now.state in LIVE - {SessionState.STOPPING}:
            return None
        if now.state not in STARTABLE:
            raise ConflictError(
                f"{now.name} is {now.state.value}",
                hint="try again in a moment: `berth show` says when it is done",
            )
        _check_profile(now, request)
        values = {
            "state": SessionState.SUBMITTING,
            "reason": "",
            "options": request.options or now.options,
            "submission": now.submission + 1,
            "restarts": 0,
            "job_id": None,
            "node": "",
            "port": 0,
            "fingerprint": "",
            "outcome": "",
        } | dict.fromkeys(_TIMES)
        return values, Entry(user, "start", f"{now.profile}@{now.version}")

    return decide


_TIMES = (
    "submitted_at",
    "attempted_at",
    "started_at",
    "expected_start_at",
    "ends_at",
    "ended_at",
    "missing_since",
    "cancelled_at",
)


def _stop(user: str) -> Decide:
    def decide(now: Session) -> Decision | None:
        if now.state is SessionState.FAILED:
            return {"state": SessionState.STOPPED}, Entry(user, "stop")
        if now.state not in LIVE or now.state is SessionState.STOPPING:
            return None
        return {"state": SessionState.STOPPING, "reason": "waiting for the job to end"}, Entry(user, "stop")

    return decide


def _delete(user: str) -> Decide:
    def decide(now: Session) -> Decision | None:
        if now.state is SessionState.DELETING:
            return None
        if now.state not in STARTABLE:
            raise ConflictError(f"{now.name} is {now.state.value}", hint=f"`berth stop {now.name}` first")
        return {"state": SessionState.DELETING, "reason": "its data is being removed"}, Entry(user, "delete")

    return decide


def _why_not(session: Session) -> str:
    """Why nobody can connect now, in one line."""
    name, reason = session.name, session.reason
    start = f"`berth start {name}` starts it"
    words = {
        SessionState.SUBMITTING: "is being submitted to Slurm; try again in a moment",
        SessionState.QUEUED: f"waits in Slurm's queue ({reason or 'no reason given'}); `berth show {name}` says more",
        SessionState.STARTING: "is starting; try again in a moment",
        SessionState.STOPPING: f"is being stopped; {start} again",
        SessionState.STOPPED: f"is stopped; {start}",
        SessionState.FAILED: f"has failed: {reason}; {start} again",
        SessionState.DELETING: "is being deleted",
    }
    return f"{name} {words[session.state]}"
