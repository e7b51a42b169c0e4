"""Guests of a session: who is let in, by which files, and that each cause that ends the access ends all of it."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import asyncssh
import pytest

from broker.controller.cluster import groups as groups_module
from broker.controller.credentials.guests import ROLE_PROGRAMS
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.sessions import connections, guest_connections, guests
from broker.controller.sessions.access import ALL_ROLES
from broker.controller.sessions.role_policy import RolePolicy
from broker.errors import ConflictError, NotFoundError, RefusedError
from broker.names import new_id
from broker.schema.connections import ConnectionRecord, ConnectionReport
from broker.schema.grants import EndedGrants, Role, ShareRequest
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from pathlib import Path

    from broker.controller.registry.models import Session

WATCH = ShareRequest(role="watch")
GONE: set[str] = set()
"""Accounts that the name service has no more."""
PROGRAMS = [role.value for role in ROLE_PROGRAMS]


@pytest.fixture(autouse=True)
def members(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The groups of each user; every user and group exists."""
    return stub_groups(monkeypatch)


def stub_groups(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    found = {"bob": {"devs"}}
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset(found.get(user, ())))
    monkeypatch.setattr(groups_module, "_has_account", lambda name: name not in GONE)
    GONE.clear()
    return found


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return core_with_keys(tmp_path)


def core_with_keys(tmp_path: Path) -> Core:
    """A core with the keys of three users."""
    launcher = FakeLauncher(FakeScheduler())
    for user in ("alice", "bob", "carol"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        launcher.authorized_keys[user] = key.export_public_key().decode()

    async def make() -> Core:
        return Core.make(site_config(tmp_path), launcher)

    core = asyncio.run(make())
    object.__setattr__(core.access, "roles", ALL_ROLES)
    return core


def file(core: Core, session: Session, name: str) -> list[str]:
    """The lines of a file in the session's directory."""
    return core.launcher.directories["alice", session.id].files.get(name, "").splitlines()


def leases(core: Core, session: Session) -> list[str]:
    return file(core, session, "guests")[1:]


class Worker:
    """A worker of a gateway: it keeps a request open, and cuts whom the answer names."""

    def __init__(self, core: Core, *guests: tuple[str, str]) -> None:
        self._core = core
        self.id = new_id()
        self.guests = set(guests)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        for number in itertools.count():
            self.guests -= set(
                await self._core.guests.connections.report(self.id, number, self.guests, 60 if self.guests else 0)
            )
            if not self.guests:
                await self._core.guests.connections.report(self.id, number + 1, [], 0)
                return


async def connect(core: Core, user: str = "bob") -> str:
    return str((await core.connect.connect(user, "alice.dev.berth")).role)


async def review(core: Core) -> None:
    """Review as the controller does from time to time."""
    await core.guests._review_all()


async def unshare(core: Core) -> EndedGrants:
    return await core.shares.unshare("alice", "dev", "bob")


async def leave(core: Core) -> None:
    await core.shares.leave("bob", "alice.dev")


async def change_role(core: Core) -> None:
    await core.shares.share("alice", "dev", "bob", ShareRequest(role="operate"))


async def expire(core: Core) -> None:
    row = core.row()
    core.registry.update(row.id, lambda row: ({"grants": [each | {"until": 1.0} for each in row.grants]}, None))
    await review(core)


async def leave_group(core: Core) -> None:
    row = core.row()
    devs = [each | {"grantee": "@other"} for each in row.grants]
    core.registry.update(row.id, lambda _: ({"grants": devs}, None))
    await review(core)


async def forbid(core: Core) -> None:
    object.__setattr__(core.access, "roles", frozenset({Role.OPERATE}))
    await review(core)


async def forbid_owner(core: Core) -> None:
    """The site gives the roles to owners of another group."""
    object.__setattr__(core.access, "policies", dict.fromkeys(Role, RolePolicy(granted_by=frozenset({"staff"}))))
    await review(core)


async def forbid_guest(core: Core) -> None:
    object.__setattr__(core.access, "policies", dict.fromkeys(Role, RolePolicy(given_to=frozenset({"staff"}))))
    await review(core)


async def lose_account(core: Core) -> None:
    GONE.update({"bob", "carol"})
    await review(core)


async def stop(core: Core) -> None:
    session = core.row()
    assert session.job.job_id is not None
    core.scheduler.end(session.job.job_id)
    await core.tick()
    await review(core)


FOR_BOB: list[Callable[[Core], Awaitable[object]]] = [unshare, leave, change_role]
FOR_ALL: list[Callable[[Core], Awaitable[object]]] = [
    expire,
    leave_group,
    forbid,
    forbid_owner,
    forbid_guest,
    lose_account,
    stop,
]


@pytest.mark.parametrize(
    ("role", "cause", "way"), list(itertools.product(PROGRAMS, FOR_BOB + FOR_ALL, ["gateway", "straight"]))
)
def test_each_cause_ends_keys_lease_and_connections(
    core: Core, role: str, cause: Callable[[Core], Awaitable[object]], way: str
) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", ShareRequest(role=role))
        await core.shares.share("alice", "dev", "carol", WATCH)
        for user, expected in (("bob", role), ("carol", "watch")):
            assert await connect(core, user) == expected
        assert leases(core, session) == [f"{role} bob", "watch carol"]
        worker = Worker(core, (session.id, "bob")) if way == "gateway" else None
        await asyncio.sleep(0)
        await cause(core)
        assert worker is None or not worker.guests, "acknowledged before the gateway has cut"
        left = [] if cause in FOR_ALL else ["watch carol"]
        assert leases(core, session) == left
        assert len(file(core, session, "guest_keys")) == len(left)
        assert not core.guests.is_admitted(session.id, "bob")
        with pytest.raises((NotFoundError, RefusedError, ConflictError)):
            await connect(core)
        if worker is not None:
            await asyncio.wait_for(worker.task, DEADLINE_S)

    asyncio.run(scenario())


def test_owner_sees_who_came_and_why_they_are_out(core: Core) -> None:
    async def scenario() -> None:
        await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await connect(core)
        await connect(core)
        await expire(core)
        events = [(event.actor, event.action, event.detail) for event in await core.sessions.events("alice", "dev")]
        assert events[-2:] == [
            ("bob", "guest-in", "as watch"),
            ("berth", "guest-out", "bob: there is no grant any more"),
        ]

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["files", "gateway"])
def test_revocation_that_cannot_be_completed_says_so(core: Core, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_connections, "CUT_TIMEOUT_S", 0.05)

    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await connect(core)
        if fault == "files":
            core.launcher.failures["install"] = LauncherError("files", "no space left")
        else:
            silent = core.guests.connections.report("w", 1, [(session.id, "bob")], 60)
            task = asyncio.create_task(silent)
            await asyncio.sleep(0)
        assert not (await unshare(core)).closed
        assert not core.guests.is_admitted(session.id, "bob")
        if fault == "files":
            del core.launcher.failures["install"]
            await review(core)
            assert leases(core, session) == []
        else:
            assert await task == [(session.id, "bob")]

    asyncio.run(scenario())


def test_slow_file_system_does_not_hold_the_answer(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await connect(core)
        assert core.launcher is not None
        row = core.row()
        core.registry.update(row.id, lambda _: ({"grants": []}, None))
        core.launcher.hangs["install"] = "before"
        monkeypatch.setattr(guests, "WRITE_TIMEOUT_S", 0.05)
        assert not await core.guests.apply(session.id)
        await core.guests.close()

    asyncio.run(scenario())


def test_leases_are_renewed_while_the_guest_is_connected_and_not_for_ever(core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", WATCH)
        await connect(core)
        seen = set()
        worker = Worker(core, (session.id, "bob"))
        await asyncio.sleep(0)
        for _ in range(20):
            clock.now += guests.RENEWAL_S
            await review(core)
            seen.add(file(core, session, "guests")[0])
        assert len(seen) == 20
        worker.task.cancel()
        await core.guests.connections.report(worker.id, 99, [], 0)
        clock.now += guests.UNSEEN_S + 1
        await review(core)
        assert leases(core, session) == []
        assert file(core, session, "guest_keys") == []

    asyncio.run(scenario())


def test_role_of_another_kind_and_strangers_do_not_get_in(core: Core) -> None:
    async def scenario() -> None:
        session = await core.ready()
        for user in ("bob", "carol"):
            with pytest.raises(NotFoundError):
                await connect(core, user)
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="operate"))
        with pytest.raises(RefusedError, match="your role there is operate"):
            await connect(core)
        await core.shares.share("alice", "dev", "@devs", WATCH)
        assert await connect(core) == "watch", "by a group, beside a grant of another role"
        with pytest.raises(NotFoundError):
            await connect(core, "carol")
        assert leases(core, session) == ["watch bob"]

    asyncio.run(scenario())


def test_guest_does_not_start_the_session(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        await core.shares.share("alice", "dev", "bob", WATCH)
        with pytest.raises(ConflictError, match=r"^alice\.dev is stopped$"):
            await connect(core)
        assert core.row().state == "stopped"

    asyncio.run(scenario())


def test_guest_reports_own_connections_of_admitted_sessions_and_not_without_end(
    core: Core, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_GUEST_RECORDS", 3)

    async def report(session: Session, user: str) -> int:
        record = ConnectionRecord(
            id=new_id(), user=user, session_id=session.id, generation=session.generation, began_at=clock.now
        )
        return await core.connections.note(ConnectionReport(connections=[record]), "bob")

    async def scenario() -> None:
        session = await core.ready()
        with pytest.raises(RefusedError):
            await report(session, "bob")
        await core.shares.share("alice", "dev", "bob", WATCH)
        with pytest.raises(RefusedError):
            await report(session, "bob")
        await connect(core)
        with pytest.raises(RefusedError):
            await report(session, "alice")
        for _ in range(4):  # the first one's sweep forgets it
            assert await report(session, "bob") == 1
        with pytest.raises(RefusedError, match="limit of recorded connections"):
            await report(session, "bob")
        own = ConnectionRecord(
            id=new_id(), user="alice", session_id=session.id, generation=session.generation, began_at=clock.now
        )
        await core.connections.note(ConnectionReport(connections=[own]), "alice")
        shown = {(view.user, view.role) for view in await core.connections.open_connections("alice", "dev")}
        assert shown == {("bob", Role.WATCH), ("alice", None)}

    asyncio.run(scenario())


def test_list_that_a_later_one_has_overtaken_is_ignored() -> None:
    async def scenario() -> None:
        admitted = {("s", "bob")}
        known = guest_connections.GuestConnections(lambda guest: guest in admitted)
        assert await known.report("w", 2, [("s", "bob")], 0) == []
        assert await known.report("w", 1, [], 0) == []
        assert known.is_connected(("s", "bob"))
        admitted.clear()
        assert await known.report("w", 3, [("s", "bob"), ("t", "bob")], 60) == [("s", "bob"), ("t", "bob")]

    asyncio.run(scenario())


def test_worker_that_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_connections, "CUT_TIMEOUT_S", 0.2)

    async def scenario() -> None:
        known = guest_connections.GuestConnections(lambda _: True)
        gone = asyncio.Event()
        request: Coroutine[object, object, object] = known.report("w", 1, [("s", "bob")], 60, gone)
        task = asyncio.create_task(request)
        await asyncio.sleep(0)
        gone.set()
        await task
        assert await known.cut(frozenset({("s", "bob")}))

    asyncio.run(scenario())
