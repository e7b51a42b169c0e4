"""Grants over the life of a session: the manifest, a lost registry, rename, deletion, clone and the limit."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller import clock as clock_module
from broker.controller.cluster import groups as groups_module
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.rebuild import rebuild
from broker.controller.registry.manifest import Manifest
from broker.controller.registry.registry import EventEntry
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError, RefusedError
from broker.schema.grants import ShareRequest
from broker.schema.permissions import Permission
from broker.schema.volumes import CloneRequest
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.rows import make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path

OPERATE = ShareRequest(role="operate")


@pytest.fixture(autouse=True)
def members(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The groups of each user; every user and group exists."""
    found = {"bob": {"devs"}}
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset(found.get(user, ())))
    monkeypatch.setattr(groups_module, "_has_account", lambda _: True)
    return found


def grants_in_manifest(core: Core, session_id: str) -> list[str]:
    """The receivers of the grants in the session's manifest."""
    content: dict[str, Any] = json.loads(core.launcher.directories["alice", session_id].files["manifest.json"])
    return [grant["grantee"] for grant in content["grants"]]


async def can_operate(core: Core, name: str = "dev", user: str = "bob") -> bool:
    try:
        await core.sessions.show(user, f"alice.{name}")
    except NotFoundError:
        return False
    return True


async def lose_registry(core: Core) -> Core:
    core.registry.close()
    for file in core.config.state_dir.glob("registry.db*"):
        file.unlink()
    return Core.make(core.config, core.launcher)


async def rebuilt(core: Core) -> list[str]:
    return (await rebuild(core.config, core.registry, core.scheduler, core.launcher)).restored


@pytest.fixture
def core(tmp_path: Path) -> Core:
    (tmp_path / "shared" / "alice").mkdir(parents=True)
    config = site_config(tmp_path, storage={"root": f"{tmp_path}/shared/{{user}}"})

    async def make() -> Core:
        return Core.make(config, FakeLauncher(FakeScheduler()))

    return asyncio.run(make())


def test_a_grant_counts_at_once_and_ends_at_once(core: Core) -> None:
    async def scenario() -> None:
        row = await core.stopped()
        assert not await can_operate(core)
        await core.shares.share("alice", "dev", "bob", OPERATE)
        assert await can_operate(core)
        assert grants_in_manifest(core, row.id) == ["bob"]
        await core.shares.unshare("alice", "dev", "bob")
        assert not await can_operate(core)
        assert grants_in_manifest(core, row.id) == []
        events = [(event.actor, event.action, event.detail) for event in await core.sessions.events("alice", "dev")]
        assert events[-2:] == [("alice", "share", "with bob as operate"), ("alice", "unshare", "with bob as operate")]

    asyncio.run(scenario())


def test_a_second_grant_replaces_the_first_and_drops_expired_ones(core: Core, clock: Clock) -> None:
    async def scenario() -> None:
        await core.stopped()
        until = clock.now + 60
        await core.shares.share("alice", "dev", "carol", ShareRequest(role="operate", until=until))
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="operate", until=until))
        clock.now += 61
        assert not await can_operate(core)
        assert [grant.grantee for grant in await core.shares.all("alice", "dev")] == ["carol", "bob"]
        await core.shares.share("alice", "dev", "bob", OPERATE)
        assert [(grant.grantee, grant.until) for grant in await core.shares.all("alice")] == [("bob", None)]
        assert await can_operate(core)

    asyncio.run(scenario())


def test_a_guest_leaves_and_a_groups_grant_stays(core: Core) -> None:
    async def scenario() -> None:
        row = await core.stopped()
        await core.shares.share("alice", "dev", "@devs", OPERATE)
        with pytest.raises(ConflictError):
            await core.shares.leave("bob", "alice.dev")
        await core.shares.share("alice", "dev", "bob", OPERATE)
        left = await core.shares.leave("bob", "alice.dev")
        assert [(grant.session, grant.grantee) for grant in left.grants] == [("alice.dev", "bob")]
        assert grants_in_manifest(core, row.id) == ["@devs"]
        events = await core.sessions.events("alice", "dev")
        assert (events[-1].actor, events[-1].action) == ("bob", "leave")
        with pytest.raises(NotFoundError):
            await core.shares.leave("carol", "alice.dev")
        with pytest.raises(InvalidInputError):
            await core.shares.leave("alice", "dev")

    asyncio.run(scenario())


def test_a_rename_keeps_grants_and_a_clone_has_none(core: Core) -> None:
    async def scenario() -> None:
        row = await core.stopped()
        await core.shares.share("alice", "dev", "bob", OPERATE)
        await core.clones.clone("alice", "dev", CloneRequest(name="copy"))
        await core.rename.rename("alice", "dev", "thesis")
        assert [await can_operate(core, name) for name in ("dev", "copy", "thesis")] == [False, False, True]
        assert grants_in_manifest(core, row.id) == ["bob"]

    asyncio.run(scenario())


def test_a_deletion_ends_grants_and_a_restore_does_not_bring_them_back(core: Core) -> None:
    async def scenario() -> None:
        row = await core.stopped()
        await core.shares.share("alice", "dev", "bob", OPERATE)
        await core.sessions.delete("alice", "dev")
        assert not await can_operate(core), "also while the data is being set aside"
        await core.tick()
        assert grants_in_manifest_of_trash(core, row.id) == ["bob"], "the file in the trash still has the grant"
        again = await lose_registry(core)
        assert await rebuilt(again) == ["alice/dev (deleted)"]
        await again.deleted.restore("alice", "dev", None)
        assert not await can_operate(again)
        assert await again.shares.all("alice") == []

    asyncio.run(scenario())


def grants_in_manifest_of_trash(core: Core, session_id: str) -> list[str]:
    content = json.loads(core.launcher.set_aside["alice", session_id].files["manifest.json"])
    return [grant["grantee"] for grant in content["grants"]]


def test_a_lost_registry_has_the_grants_again(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        await core.shares.share("alice", "dev", "bob", OPERATE)
        before = core.row().grants
        again = await lose_registry(core)
        assert not await can_operate(again)
        assert await rebuilt(again) == ["alice/dev"]
        assert again.row().grants == before
        assert await can_operate(again)

    asyncio.run(scenario())


def test_an_old_registry_does_not_revive_a_grant_that_was_revoked(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        await core.shares.share("alice", "dev", "carol", OPERATE)
        await core.shares.share("alice", "dev", "bob", OPERATE)
        file = core.config.state_dir / "registry.db"
        core.registry.close()
        old = file.read_bytes()
        again = Core.make(core.config, core.launcher)
        await again.shares.unshare("alice", "dev", "bob")
        again.registry.close()
        file.write_bytes(old)
        restored = Core.make(core.config, core.launcher)
        assert await can_operate(restored)
        assert await rebuilt(restored) == []
        assert not await can_operate(restored)
        assert [grant.grantee for grant in await restored.shares.all("alice")] == ["carol"]

    asyncio.run(scenario())


def test_a_manifest_that_cannot_be_written_delays_no_revocation(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        await core.shares.share("alice", "dev", "bob", OPERATE)

        async def fail(*_: object) -> None:
            raise LauncherError("files", "Stale file handle")

        core.launcher.install = fail  # type: ignore[assignment,method-assign]
        await core.shares.unshare("alice", "dev", "bob")
        assert not await can_operate(core)

    asyncio.run(scenario())


def test_the_last_of_two_simultaneous_changes_is_in_the_manifest(core: Core) -> None:
    async def scenario() -> None:
        row = await core.stopped()
        grantees = [f"user{number}" for number in range(8)]
        await asyncio.gather(*(core.shares.share("alice", "dev", each, OPERATE) for each in grantees))
        await asyncio.gather(*(core.shares.unshare("alice", "dev", each) for each in grantees[:4]))
        assert sorted(grants_in_manifest(core, row.id)) == grantees[4:]

    asyncio.run(scenario())


def test_a_manifest_of_a_later_version_loses_only_unknown_roles() -> None:
    row = make_session(grants=[{"grantee": "bob", "role": "operate", "until": None, "granted_at": 1.0}])
    content = json.loads(Manifest.of(row).text)
    content["grants"].append({"grantee": "carol", "role": "pilot", "until": None, "granted_at": 1.0})
    session = Manifest.model_validate(content).session()
    assert [grant.grantee for grant in session.active_grants(2.0)] == ["bob"]


def test_a_stop_by_a_guest_names_them_as_the_reason(core: Core) -> None:
    async def scenario() -> None:
        session = await core.ready()
        await core.shares.share("alice", "dev", "bob", OPERATE)
        await core.sessions.stop("bob", "alice.dev")
        await core.tick()
        assert "bob stopped the session" in core.launcher.directories["alice", session.id].files["ending"]
        assert session.job.job_id is not None
        core.scheduler.end(session.job.job_id)
        await core.tick()
        assert core.row().reason == "stopped by bob"

    asyncio.run(scenario())


@pytest.mark.parametrize("user", ["bob", "carol"])
def test_only_the_owner_shares_lists_and_revokes(core: Core, user: str) -> None:
    async def scenario() -> None:
        await core.stopped()
        await core.shares.share("alice", "dev", "bob", OPERATE)
        kind = RefusedError if user == "bob" else NotFoundError
        calls: list[Any] = [
            lambda: core.shares.share(user, "alice.dev", "dave", OPERATE),
            lambda: core.shares.unshare(user, "alice.dev", "bob"),
            lambda: core.shares.all(user, "alice.dev"),
        ]
        for call in calls:
            with pytest.raises(kind):
                await call()
        assert await core.shares.all(user) == []

    asyncio.run(scenario())


def test_personal_mode_has_no_sharing(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = site_config(tmp_path, mode="personal", gateway={"enabled": False})
        core = Core.make(config, FakeLauncher(FakeScheduler()))
        core.registry.create(make_session(), EventEntry("alice", "start"))
        with pytest.raises(BerthError, match="does not share"):
            await core.shares.share("alice", "dev", "bob", OPERATE)
        assert (await core.shares.shared_list("bob")).sessions == []

    asyncio.run(scenario())


def test_a_group_and_a_user_share_different_roles_and_the_longer_grant_counts(core: Core) -> None:
    async def scenario() -> None:
        await core.stopped()
        row = core.row()
        until = clock_module.now() + 60
        await core.shares.share("alice", "dev", "@devs", ShareRequest(role="watch"))
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="watch", until=until))
        grant = await core.access.grant_of("bob", core.row(), Permission.WATCH)
        assert grant is not None
        assert (grant.grantee, grant.until) == ("@devs", None)
        await core.shares.share("alice", "dev", "bob", OPERATE)
        shared = await core.shares.shared_list("bob")
        assert [(each.role, each.via) for each in shared.sessions] == [("operate", "bob"), ("watch", "@devs")]
        assert await core.access.grant_of("carol", row, Permission.WATCH) is None

    asyncio.run(scenario())
