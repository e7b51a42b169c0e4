"""Default deny: every user, session and permission, from the one function that everything asks."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import threading
from typing import TYPE_CHECKING, Any

import pytest

from broker.config.settings import WatchSettings
from broker.controller import clock
from broker.controller.cluster import groups as groups_module
from broker.controller.cluster.groups import UserGroups
from broker.controller.open_connections import OpenConnections
from broker.controller.reconcile.observed_slurm import ObservedSlurm
from broker.controller.registry.async_registry import AsyncRegistry
from broker.controller.registry.database import open_registry
from broker.controller.registry.registry import EventEntry
from broker.controller.sessions.access import ALL_ROLES, ROLE_PERMISSIONS, SessionAccess, is_allowed
from broker.controller.sessions.watch import SessionWatches
from broker.controller.wakeup import ChangeNotifier
from broker.errors import NotFoundError, RefusedError
from broker.schema.grants import Role
from broker.schema.permissions import Permission
from broker.schema.states import SessionState
from tests.deadlines import DEADLINE_S
from tests.fakes.rows import make_session as session

if TYPE_CHECKING:
    from pathlib import Path

    from broker.controller.registry.models import Session

USERS = ("alice", "bob", "carol")
HOUR_S = 3600.0


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The groups of each user, as the name service has them now."""
    found: dict[str, set[str]] = {}
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset(found.get(user, ())))
    monkeypatch.setattr(groups_module, "_has_account", lambda _: True)
    return found


@pytest.fixture
def registry(tmp_path: Path, members: dict[str, set[str]]) -> AsyncRegistry:
    del members
    made = open_registry(f"sqlite:///{tmp_path / 'registry.db'}")
    for owner in USERS[:2]:
        made.create(session(owner), EventEntry(owner, "start"))
    return AsyncRegistry(made)


def resolve(
    registry: AsyncRegistry,
    user: str,
    reference: str,
    permission: Permission,
    *,
    sharing: bool = True,
    roles: frozenset[Role] = ALL_ROLES,
) -> str:
    """Return the owner of the session that the user may use so."""

    async def scenario() -> str:
        groups = UserGroups()
        try:
            access = SessionAccess(registry, groups, sharing, roles=roles)
            return (await access.resolve(user, reference, permission)).owner
        finally:
            await groups.close()

    return asyncio.run(scenario())


def grant(registry: AsyncRegistry, grantee: str, until: float | None = None, role: Role = Role.OPERATE) -> None:
    """Share alice's session."""
    row = registry.blocking.find("alice", "dev")
    assert row is not None
    added = {"grantee": grantee, "role": role, "until": until, "granted_at": 1.0}
    registry.blocking.update(row.id, lambda current: ({"grants": [*current.grants, added]}, None))


@pytest.mark.parametrize(("user", "owner", "permission"), list(itertools.product(USERS, USERS[:2], Permission)))
def test_the_owner_may_and_nobody_else(registry: AsyncRegistry, user: str, owner: str, permission: Permission) -> None:
    assert is_allowed(user, session(owner), permission) is (user == owner)
    if user == owner:
        assert resolve(registry, user, f"{owner}.dev", permission) == owner
        assert resolve(registry, user, "dev", permission) == owner
    else:
        with pytest.raises(NotFoundError):
            resolve(registry, user, f"{owner}.dev", permission)


GRANTS: dict[str, tuple[list[tuple[str, float | None]], bool]] = {
    "none": ([], False),
    "direct": ([("bob", None)], True),
    "direct, until later": ([("bob", HOUR_S)], True),
    "by group": ([("@devs", None)], True),
    "expired": ([("bob", -1.0)], False),
    "expired group": ([("@devs", -1.0)], False),
    "direct expired, group lasting": ([("bob", -1.0), ("@devs", None)], True),
    "another user": ([("carol", None)], False),
    "a group that he left": ([("@former", None)], False),
    "a user with a group's name": ([("devs", None)], False),
    "a group with his name": ([("@bob", None)], False),
}
"""Grants on alice's session, with their ends in seconds from now, and whether bob of the group devs has the role."""


@pytest.mark.parametrize(("state", "role"), list(itertools.product(GRANTS, Role)))
def test_a_guest_has_the_permissions_of_a_grant_that_lasts(
    registry: AsyncRegistry, members: dict[str, set[str]], state: str, role: Role
) -> None:
    grants, counts = GRANTS[state]
    members["bob"] = {"devs"}
    for grantee, seconds in grants:
        grant(registry, grantee, None if seconds is None else clock.now() + seconds, role)
    for permission in Permission:
        if counts and permission in ROLE_PERMISSIONS[role]:
            assert resolve(registry, "bob", "alice.dev", permission) == "alice"
        else:
            with pytest.raises(RefusedError if counts else NotFoundError):
                resolve(registry, "bob", "alice.dev", permission)
        with pytest.raises(NotFoundError):
            resolve(registry, "bob", "alice.dev", permission, sharing=False)
        with pytest.raises(NotFoundError):
            resolve(registry, "bob", "alice.dev", permission, roles=frozenset(Role) - {role})
        assert resolve(registry, "bob", "dev", permission) == "bob", "his own session of that name"


@pytest.mark.parametrize("roles", [{Role.OPERATE}, {Role.PORT}, {Role.OPERATE, Role.PORT}])
def test_a_service_is_open_for_the_guests_of_that_service_and_nothing_else_is(
    registry: AsyncRegistry, members: dict[str, set[str]], roles: set[Role]
) -> None:
    """Every state of a grant of `board`, permission and service; also that the end of the permission is the grant's."""
    members["bob"] = {"devs"}

    async def is_open(access: SessionAccess, permission: Permission, service: str | None) -> type[Exception] | None:
        try:
            await access.resolve("bob", "alice.dev", permission, service)
        except (NotFoundError, RefusedError) as error:
            return type(error)
        return None

    async def scenario() -> None:
        groups = UserGroups()
        access = SessionAccess(registry, groups, sharing=True, roles=frozenset(roles))
        row = await registry.find("alice", "dev")
        assert row is not None
        for state, (grants, lasts) in GRANTS.items():
            now = clock.now()
            ends = [(grantee, None if seconds is None else now + seconds) for grantee, seconds in grants]
            added = [{"grantee": who, "role": "port", "service": "board", "until": end} for who, end in ends]
            values = {"grants": [each | {"granted_at": 1.0} for each in added]}

            def changed(_: Session, values: dict[str, Any] = values) -> tuple[dict[str, Any], None]:
                return values, None

            session = await registry.update(row.id, changed)
            counts = lasts and Role.PORT in roles
            for permission, service in itertools.product(Permission, (None, "board", "terminal")):
                given = counts and (permission, service) == (Permission.VISIT, "board")
                refusal = None if given else RefusedError if counts else NotFoundError
                assert await is_open(access, permission, service) is refusal, (state, permission, service)
                until = await access.permission_end("bob", session, permission, service)
                assert (until > now) is given, (state, permission, service)
            assert await access.permission_end("alice", session, Permission.VISIT, "board") == math.inf
        await groups.close()

    asyncio.run(scenario())


def test_no_role_has_what_is_the_owners_alone() -> None:
    owner_only = {Permission.DELETE, Permission.ROLLBACK, Permission.SHARE, Permission.SWITCH, Permission.CLONE}
    owner_only |= {Permission.CONNECT, Permission.WHO, Permission.ROOT, Permission.INSPECT, Permission.SET}
    owner_only |= {Permission.RESTORE, Permission.RENAME, Permission.RESIZE, Permission.RESTART, Permission.FORGET}
    for permissions in ROLE_PERMISSIONS.values():
        assert not permissions & owner_only
    visitors = [role for role, permissions in ROLE_PERMISSIONS.items() if Permission.VISIT in permissions]
    assert visitors == [Role.PORT], "and on the service of the grant alone"


def test_a_member_who_leaves_the_group_is_out_at_the_next_use(
    registry: AsyncRegistry, members: dict[str, set[str]]
) -> None:
    members["bob"] = {"devs"}
    grant(registry, "@devs")

    async def scenario() -> None:
        groups = UserGroups()
        access = SessionAccess(registry, groups, sharing=True)
        assert (await access.resolve("bob", "alice.dev", Permission.SEE)).owner == "alice"
        members["bob"] = set()
        with pytest.raises(NotFoundError):
            await access.resolve("bob", "alice.dev", Permission.SEE)
        await groups.close()

    asyncio.run(scenario())


def test_without_an_answer_about_groups_only_grants_to_the_user_count(
    registry: AsyncRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> frozenset[str]:
        raise OSError("the directory is down")

    monkeypatch.setattr(groups_module, "_group_names", fail)
    grant(registry, "@devs")
    with pytest.raises(NotFoundError):
        resolve(registry, "bob", "alice.dev", Permission.SEE)
    grant(registry, "bob")
    assert resolve(registry, "bob", "alice.dev", Permission.SEE) == "alice"


def test_a_slow_name_service_neither_gives_access_nor_blocks_others(
    registry: AsyncRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant(registry, "@devs")

    async def scenario() -> None:
        answer = threading.Event()

        def hang(_: str) -> frozenset[str]:
            answer.wait(DEADLINE_S)
            return frozenset({"devs"})

        monkeypatch.setattr(groups_module, "_group_names", hang)
        monkeypatch.setattr(groups_module, "PATIENCE_S", 0.05)
        groups = UserGroups()
        access = SessionAccess(registry, groups, sharing=True)
        asked = asyncio.create_task(access.resolve("bob", "alice.dev", Permission.SEE))
        await asyncio.sleep(0)
        assert (await access.resolve("alice", "dev", Permission.SEE)).owner == "alice", "the owner waits for no group"
        with pytest.raises(NotFoundError):
            await asked
        answer.set()
        await groups.close()

    asyncio.run(scenario())


def test_a_revocation_during_the_lookup_counts(registry: AsyncRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    grant(registry, "@devs")

    def revoke_meanwhile(_: str) -> frozenset[str]:
        row = registry.blocking.find("alice", "dev")
        assert row is not None
        registry.blocking.update(row.id, lambda _: ({"grants": []}, None))
        return frozenset({"devs"})

    monkeypatch.setattr(groups_module, "_group_names", revoke_meanwhile)
    with pytest.raises(NotFoundError):
        resolve(registry, "bob", "alice.dev", Permission.SEE)


@pytest.mark.parametrize("user", USERS)
def test_a_watch_has_the_sessions_of_its_user_only(registry: AsyncRegistry, user: str) -> None:
    """Also if another user's session is reported as changed: a user may give a job any session's name."""
    grant(registry, "bob")

    async def scenario() -> None:
        for owner in USERS[:2]:
            row = (await registry.sessions_of(owner))[0]
            await registry.update(row.id, lambda _: ({"state": SessionState.STOPPED}, None))
        changes = ChangeNotifier()
        watches = SessionWatches(
            settings=WatchSettings(),
            registry=registry,
            observed=ObservedSlurm(changes, OpenConnections(changes)),
            changes=changes,
        )
        stream = await watches.open(user, "")
        stopping = asyncio.Event()
        events = stream.events(stopping)
        owners = {view["owner"] for view in json.loads((await anext(events)).split(b"data: ")[1])["sessions"]}
        assert owners == {user} & set(USERS[:2])
        for owner in USERS[:2]:
            changes.announce((await registry.sessions_of(owner))[0].id, user)
        stopping.set()
        assert [part async for part in events] == []
        stream.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("permission", list(Permission))
def test_a_refusal_does_not_tell_whether_the_session_exists(registry: AsyncRegistry, permission: Permission) -> None:
    grant(registry, "bob")
    with pytest.raises(NotFoundError) as there:
        resolve(registry, "carol", "alice.dev", permission)
    with pytest.raises(NotFoundError) as nowhere:
        resolve(registry, "carol", "alice.nowhere", permission)
    assert there.value.message.replace("dev", "NAME") == nowhere.value.message.replace("nowhere", "NAME")
    assert there.value.hint == nowhere.value.hint


def test_the_name_service_is_asked_about_missing_sessions_too(
    registry: AsyncRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the time of the answer would tell whether a session of that name exists."""
    asked: list[str] = []

    def look_up(user: str) -> frozenset[str]:
        asked.append(user)
        return frozenset()

    monkeypatch.setattr(groups_module, "_group_names", look_up)
    for name in ("dev", "nowhere"):
        with pytest.raises(NotFoundError):
            resolve(registry, "carol", f"alice.{name}", Permission.SEE)
    assert asked == ["carol", "carol"]
