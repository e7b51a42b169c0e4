"""The guests whom sessions admit: their keys and leases in the session's directory, and the end of their access.

A lease is a line of run/guests. The guest's program in the session ends when the line has gone, or when the file
has not been renewed for a minute. A review of a session asks the access function about each of its guests, and writes
the file.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from broker.controller import clock
from broker.controller.credentials.guests import AdmittedGuest, guest_files
from broker.controller.credentials.login import SshCredentials
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.guest_connections import GuestConnections
from broker.controller.wakeup import wait_for_any
from broker.errors import ConflictError, RefusedError
from broker.schema.connections import CONNECTION_TIMEOUT_S
from broker.schema.grants import Role
from broker.schema.sessions import SessionState
from broker.service.lasting_states import LastingStates
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from broker.controller.credentials.login import LoginPolicy
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry
    from broker.controller.registry.models import Session
    from broker.controller.sessions.access import SessionAccess
    from broker.controller.wakeup import ChangeNotifier

REVIEW_INTERVAL_S = 1.0
"""Seconds between two reviews: a guest who has left a group is out after that."""
RENEWAL_S = 20.0
"""Seconds between two renewals of leases, of which each lasts for a minute."""
UNSEEN_S = CONNECTION_TIMEOUT_S
"""Seconds for which a guest keeps the lease who has not connected yet."""
LEFT_S = 5.0
"""Seconds for which a guest keeps the lease after the last known connection."""
RECOVERY_TIMEOUT_S = 10.0
"""Seconds that a gateway's request waits for a controller that has just started."""
WRITE_TIMEOUT_S = 5.0
"""Seconds that a revocation waits for the session's file system."""

log = logging.getLogger(__name__)


class GuestEnd(StrEnum):
    """The reason why a guest is out, as the owner's events have it."""

    REVOKED = "there is no grant any more"
    """Nothing gives the role now: neither a grant, nor a group of the guest's, nor the site."""
    EXPIRED = "the grant has expired"
    ACCOUNT_GONE = "the account does not exist any more"
    OTHER_ROLE = "the role is {role} now"
    RUN_ENDED = "the run of the session has ended"
    HAS_LEFT = "has left"
    NEVER_CAME = "has not connected"


@dataclass(frozen=True, slots=True)
class _Admission:
    guest: AdmittedGuest
    generation: str
    """The run of the session that lets the guest in."""
    seen_at: float
    """The monotonic time at which the guest was last known to be connected."""
    has_come: bool = False
    """Whether the guest was ever known to be connected."""


def check_open(session: Session) -> None:
    """Raise ConflictError unless guests can enter the session now."""
    if session.endpoint is None or session.root:
        state = "in root mode" if session.root else session.state
        raise ConflictError(f"{session.full_name} is {state}", hint="connect again when it is ready")


class GuestService:
    """Admits guests, and reviews the sessions that have guests."""

    def __init__(
        self,
        *,
        access: SessionAccess,
        registry: AsyncRegistry,
        launcher: LauncherClient,
        logins: LoginPolicy,
        changes: ChangeNotifier,
    ) -> None:
        self._access = access
        self._registry = registry
        self._launcher = launcher
        self._logins = logins
        self._changes = changes
        self._sessions: dict[str, dict[str, _Admission]] = {}
        """The admitted guests, by session and user."""
        self._renewed: dict[str, float] = {}
        """The monotonic time at which the leases of a session were written."""
        self._reviews = SingleFlight[str, bool]()
        self._late: set[asyncio.Task[bool]] = set()
        self._reviewing = WeakValueDictionary[str, asyncio.Lock]()
        self._added = asyncio.Event()
        self._recovered = asyncio.Event()
        self._recovering = asyncio.Lock()
        self._lasting = LastingStates(log)
        self.connections = GuestConnections(lambda guest: self.is_admitted(*guest))
        """The guests whom gateways have connected."""

    async def admit(self, user: str, session_id: str) -> tuple[Session, AdmittedGuest]:
        """Let a guest with a role that has a program into the session's present run: its sshd accepts the guest's keys.

        Return the session as it was at that moment. RefusedError without a grant of one, ConflictError as check_open
        and if the session's files cannot be written. Raises as LoginPolicy.of.
        """
        await self._recover()
        login = await self._logins.of(user)
        async with self._lock(session_id):
            session = await self._registry.require(session_id)
            grant = await self._access.entry_grant(user, session)
            if session.state is SessionState.DELETED or grant is None:
                raise RefusedError(f"your access to {session.full_name} has ended")
            check_open(session)
            guest = AdmittedGuest(login, grant.role, grant.until)
            before = self._sessions.get(session_id, {})
            admission = _Admission(guest, session.generation, clock.monotonic())
            self._sessions[session_id] = before | {user: admission}
            if not self._is_written(session_id, before.get(user), admission) and not await self._write(session):
                self._sessions[session_id] = before
                self._renewed.pop(session_id, None)  # so that the next review writes the files
                raise ConflictError(
                    f"{session.full_name} cannot let you in: its files cannot be written",
                    hint="try again in a moment",
                )
        if user not in before or before[user].guest.role is not guest.role:
            await self._registry.record(session, EventEntry(user, "guest-in", f"as {grant.role}"))
            self._added.set()
        return session, guest

    def _is_written(self, session_id: str, before: _Admission | None, now: _Admission) -> bool:
        """Whether the session's files have this admission already."""
        is_same = before is not None and (before.guest, before.generation) == (now.guest, now.generation)
        return is_same and session_id in self._renewed

    def is_admitted(self, session_id: str, user: str) -> bool:
        """Whether the guest has a lease of the session."""
        return user in self._sessions.get(session_id, {})

    def role_of(self, session_id: str, user: str) -> Role | None:
        """Return the role by which a guest is in the session; None for all other users."""
        admission = self._sessions.get(session_id, {}).get(user)
        return None if admission is None else admission.guest.role

    async def wait_recovered(self, gone: asyncio.Event) -> None:
        """Wait until the controller knows the guests whom the controller before it has admitted.

        ConflictError if that takes longer than RECOVERY_TIMEOUT_S, or when `gone` is set.
        """
        if not self._recovered.is_set():
            await wait_for_any([self._recovered, gone], RECOVERY_TIMEOUT_S)
        if not self._recovered.is_set():
            raise ConflictError("Berth's controller is starting", hint="connect again in a moment")

    async def apply(self, session_id: str) -> bool:
        """Review a session after a change of its grants.

        Return whether the connections of all guests whose access has ended are closed, or end by their leases within
        2 s: the leases are written, and the gateways have closed theirs.
        """
        review = asyncio.create_task(self._review_known(session_id))
        self._late.add(review)  # it continues if the file system is slow
        review.add_done_callback(self._late.discard)
        done, _ = await asyncio.wait({review}, timeout=WRITE_TIMEOUT_S)
        return review.result() if done else False

    async def _review_known(self, session_id: str) -> bool:
        """Review a session, also one without guests: one may be about to be admitted, or be known after a recovery."""
        await self._recover()
        return await self._review(session_id)

    async def run(self) -> None:
        """Recover the guests, and review sessions after each change and from time to time, until cancelled."""
        while True:
            self._added.clear()
            seen = self._changes.number
            try:
                await self._recover()
                await self._review_all()
                self._lasting.end("review")
            except Exception as error:  # noqa: BLE001 - the loop must outlive any single failure
                self._lasting.report("review", logging.ERROR, f"a review of guests failed: {error!r}", cause=error)
            await self._changes.wait(list(self._sessions), seen, self._pause(), self._added)

    async def _review_all(self) -> None:
        """Review all sessions. Wait REVIEW_INTERVAL_S at most, so that a slow file system delays no other session."""
        tasks = {self._reviews.join(each, functools.partial(self._review, each)) for each in list(self._sessions)}
        if tasks:
            done, _ = await asyncio.wait(tasks, timeout=REVIEW_INTERVAL_S)
            for task in done:
                task.result()

    async def close(self) -> None:
        """Cancel the reviews that still run."""
        await self._reviews.close()
        for task in list(self._late):
            task.cancel()

    def _pause(self) -> float:
        """Return the seconds until the next review: less if a grant ends before."""
        ends = [
            admission.guest.until
            for admissions in self._sessions.values()
            for admission in admissions.values()
            if admission.guest.until is not None
        ]
        return max(0.05, min([REVIEW_INTERVAL_S, *(end - clock.now() for end in ends)]))

    async def _recover(self) -> None:
        """Admit the guests who are connected, as gateways and clients have reported, unless that is done.

        The next review removes those whose access has ended, and the leases that an earlier controller has left, also
        of a session whose last grant that controller has removed.
        """
        async with self._recovering:
            if self._recovered.is_set():
                return
            for session in await self._registry.sessions_with_guests():
                if session.endpoint is None:
                    continue
                connected = await self._connected_guests(session)
                admitted = self._sessions.setdefault(session.id, {})
                for user in connected:
                    grant = await self._access.entry_grant(user, session)
                    # Without credentials: sshd has accepted the guest already, and the next login brings them.
                    guest = AdmittedGuest(SshCredentials(user, [], [], [], []), grant.role if grant else Role.WATCH)
                    admitted[user] = _Admission(guest, session.generation, clock.monotonic())
            self._recovered.set()

    async def _connected_guests(self, session: Session) -> set[str]:
        """Return the guests with a connection to the session's present run."""
        since = clock.now() - CONNECTION_TIMEOUT_S
        rows = await self._registry.connections_of(session.owner, session.id, standing=True)
        known = {row.user for row in rows if row.generation == session.generation and row.seen_at > since}
        admitted = self._sessions.get(session.id, {})
        return (known - {session.owner}) | {u for u in admitted if self.connections.is_connected((session.id, u))}

    def _lock(self, session_id: str) -> asyncio.Lock:
        return self._reviewing.setdefault(session_id, asyncio.Lock())

    async def _review(self, session_id: str) -> bool:
        """Remove the guests of a session whose access has ended, and renew the leases of the others.

        Return whether the leases are written and the gateways have closed the connections.
        """
        async with self._lock(session_id):
            if session_id not in self._sessions:
                return True
            before = self._sessions[session_id]
            session = await self._registry.get(session_id)
            if session is None or session.state is SessionState.DELETED:
                del self._sessions[session_id]
                return await self.connections.cut(frozenset((session_id, user) for user in before))
            stay, reasons = await self._select(session, before)
            gone = before.keys() - stay.keys()
            self._sessions[session_id] = stay
            is_due = clock.monotonic() - self._renewed.get(session_id, -RENEWAL_S) >= RENEWAL_S
            is_changed = {user: each.guest for user, each in before.items()} != {u: a.guest for u, a in stay.items()}
            cutting = asyncio.ensure_future(self.connections.cut(frozenset((session_id, user) for user in gone)))
            if is_changed:
                self._renewed.pop(session_id, None)  # so that a write that fails is repeated
            is_written = await self._write(session) if is_changed or is_due else True
            is_cut = await cutting
            if not stay and is_written:
                del self._sessions[session_id]
                self._renewed.pop(session_id, None)
        for user in sorted(gone & reasons.keys()):
            await self._registry.record(session, EventEntry("berth", "guest-out", f"{user}: {reasons[user]}"))
        return is_written and is_cut

    async def _select(
        self, session: Session, admissions: dict[str, _Admission]
    ) -> tuple[dict[str, _Admission], dict[str, str]]:
        """Return the guests who may stay, and by user the reason why another may not."""
        connected = await self._connected_guests(session)
        grants = await asyncio.gather(*(self._access.entry_grant(user, session) for user in admissions))
        stay: dict[str, _Admission] = {}
        reasons: dict[str, str] = {}
        now = clock.monotonic()
        for (user, admission), grant in zip(admissions.items(), grants, strict=True):
            is_connected = user in connected
            has_come = admission.has_come or is_connected
            seen_at = now if is_connected else admission.seen_at
            if grant is None:
                reasons[user] = await self._lost_grant(admission.guest)
            elif session.endpoint is None or session.root or session.generation != admission.generation:
                reasons[user] = GuestEnd.RUN_ENDED
            elif grant.role is not admission.guest.role:
                reasons[user] = GuestEnd.OTHER_ROLE.format(role=grant.role)
            elif now - seen_at > (LEFT_S if has_come else UNSEEN_S):
                reasons[user] = GuestEnd.HAS_LEFT if has_come else GuestEnd.NEVER_CAME
            else:
                guest = replace(admission.guest, until=grant.until)
                stay[user] = _Admission(guest, admission.generation, seen_at, has_come)
        return stay, reasons

    async def _lost_grant(self, guest: AdmittedGuest) -> GuestEnd:
        if guest.until is not None and guest.until <= clock.now():
            return GuestEnd.EXPIRED
        gone = await self._access.groups.is_gone(guest.login.user)
        return GuestEnd.ACCOUNT_GONE if gone else GuestEnd.REVOKED

    async def _write(self, session: Session) -> bool:
        """Write keys and leases of the session's guests. A failure is logged."""
        guests = [admission.guest for admission in self._sessions[session.id].values()]
        try:
            await self._launcher.install(session.owner, session.id, guest_files(guests, int(clock.now() * 1e9)))
        except LauncherError as error:
            text = f"leases not written {session.log_name} error={error.message}"
            self._lasting.report(session.id, logging.WARNING, text)
            return False
        self._lasting.end(session.id)
        self._renewed[session.id] = clock.monotonic()
        return True
