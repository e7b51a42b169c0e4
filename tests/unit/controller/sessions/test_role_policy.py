"""Roles that a site gives to some groups alone: both sides, by each kind of grant, at each use."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from broker.config.sharing_settings import SharingSettings
from broker.controller.sessions.role_policy import RolePolicy
from broker.errors import NotFoundError, RefusedError
from broker.schema.grants import Role, ShareRequest
from broker.schema.permissions import Permission
from tests.unit.controller.sessions.test_guests import core_with_keys, stub_groups

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.core import Core

STAFF = frozenset({"staff"})
SIDES = {
    "none": RolePolicy(),
    "owner": RolePolicy(granted_by=STAFF),
    "guest": RolePolicy(given_to=STAFF),
    "both": RolePolicy(granted_by=STAFF, given_to=STAFF),
}


@pytest.fixture(autouse=True)
def members(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    return stub_groups(monkeypatch)


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return core_with_keys(tmp_path)


def limit(core: Core, role: Role, policy: RolePolicy) -> None:
    object.__setattr__(core.access, "policies", {role: policy})


@pytest.mark.parametrize(
    ("side", "inside", "grantee"),
    list(itertools.product(SIDES, itertools.product((True, False), repeat=2), ("bob", "@devs"))),
)
def test_a_grant_counts_while_both_are_in_a_group_of_the_rule(
    core: Core, members: dict[str, set[str]], side: str, inside: tuple[bool, bool], grantee: str
) -> None:
    owner_in, guest_in = inside
    policy = SIDES[side]
    counts = (owner_in or policy.granted_by is None) and (guest_in or policy.given_to is None)

    async def is_allowed() -> bool:
        try:
            await core.access.resolve("bob", "alice.dev", Permission.SEE)
        except NotFoundError:
            return False
        return True

    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", grantee, ShareRequest(role="use"))
        members["bob"] = {"devs"} | ({"staff"} if guest_in else set())
        members["alice"] = {"staff"} if owner_in else set()
        limit(core, Role.USE, policy)
        assert await is_allowed() is counts
        assert (await core.access.entry_grant("bob", core.row()) is not None) is counts
        assert (await core.access.grant_of("bob", core.row(), Permission.USE) is not None) is counts
        shared = (await core.shares.shared_list("bob")).sessions
        assert [each.session.id for each in shared] == ([session.id] if counts else [])
        limit(core, Role.WATCH, policy)
        assert await is_allowed(), "the rule of another role"

    asyncio.run(scenario())


@pytest.mark.parametrize("side", ["owner", "guest"])
def test_what_would_not_count_is_refused_and_changes_nothing(
    core: Core, members: dict[str, set[str]], side: str
) -> None:
    async def scenario() -> None:
        await core.ready()
        limit(core, Role.PAIR, SIDES[side])
        with pytest.raises(RefusedError, match="does not let") as refused:
            await core.shares.share("alice", "dev", "bob", ShareRequest(role="pair"))
        assert refused.value.hint == "members of @staff may"
        assert core.row().grants == []
        members["alice"] = members["bob"] = {"staff"}
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="pair"))
        if side == "guest":
            members["bob"] = set()
            await core.shares.share("alice", "dev", "@devs", ShareRequest(role="pair"))

    asyncio.run(scenario())


def test_no_answer_about_groups_gives_no_role_with_a_rule(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await core.ready()
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="use"))
        limit(core, Role.USE, SIDES["guest"])

        def fail(_: str) -> frozenset[str]:
            raise OSError("the name service is away")

        monkeypatch.setattr("broker.controller.cluster.groups._group_names", fail)
        with pytest.raises(NotFoundError):
            await core.access.resolve("bob", "alice.dev", Permission.SEE)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("pilot", "Input should be 'operate'"),
        (7, "must be a role, or have `role`"),
        ({}, "Field required"),
        ({"role": "use", "given_to": []}, "at least 1 item"),
        ({"role": "use", "given_to": ["staff"]}, 'must be a Unix group as "@GROUP"'),
        ({"role": "use", "granted_by": ["@a b"]}, 'must be a Unix group as "@GROUP"'),
        ({"role": "use", "users": ["bob"]}, "Extra inputs are not permitted"),
        ({"role": "watch"}, "names watch more than once"),
    ],
)
def test_bad_rule_is_refused(entry: object, says: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SharingSettings.model_validate({"roles": ["watch", entry]})
    assert says in str(refused.value)


def test_rules_of_the_configuration_become_policies() -> None:
    rule = {"role": "use", "granted_by": ["@staff"]}
    roles = SharingSettings.model_validate({"roles": ["watch", rule]}).roles
    assert [each.is_limited for each in roles] == [False, True]
    assert RolePolicy.of(roles[1]) == SIDES["owner"]
    assert RolePolicy.of(roles[0]) == SIDES["none"]
