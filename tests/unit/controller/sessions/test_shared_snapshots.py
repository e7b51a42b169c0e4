"""A snapshot that is shared: what its grant gives, and a clone of it, which is the guest's own."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller import clock
from broker.controller.cluster import groups as groups_module
from broker.controller.launcher_client.errors import LauncherError
from broker.controller.registry.registry import EventEntry
from broker.errors import BerthError, ConflictError, InvalidInputError, NotFoundError, RefusedError
from broker.schema.grants import ShareRequest
from broker.schema.sessions import SessionState
from broker.schema.volumes import CloneRequest, SnapshotRequest
from tests.deadlines import DEADLINE_S
from tests.fakes.core import Clock, Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from pathlib import Path

    from broker.controller.registry.models import Session
    from broker.schema.volumes import SnapshotView

MINE = CloneRequest(name="mine", at="1")


@pytest.fixture(autouse=True)
def _members(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bob is in the group devs; every user and group exists."""
    found = {"bob": {"devs"}}
    monkeypatch.setattr(groups_module, "_group_names", lambda user: frozenset(found.get(user, ())))
    monkeypatch.setattr(groups_module, "_has_account", lambda _: True)


def make_core(tmp_path: Path, **changes: Any) -> Core:  # noqa: ANN401 - sections of the configuration
    for user in ("alice", "bob"):
        (tmp_path / "shared" / user).mkdir(parents=True, exist_ok=True)
    config = site_config(tmp_path, storage={"root": f"{tmp_path}/shared/{{user}}"}, **changes)

    async def make() -> Core:
        return Core.make(config, FakeLauncher(FakeScheduler()))

    return asyncio.run(make())


@pytest.fixture
def core(tmp_path: Path) -> Core:
    return make_core(tmp_path)


async def with_snapshots(core: Core) -> Session:
    """Alice's stopped session, with `first` in snapshot 1 and `second` in snapshot 2."""
    row = await core.stopped()
    for content in ("first", "second"):
        core.launcher.volumes.write("alice", row.id, "file", content)
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest(label=content))
    return core.row()


async def share(core: Core, grantee: str = "bob", snapshot: str = "1", **values: Any) -> None:  # noqa: ANN401
    await core.shares.share("alice", "dev", grantee, ShareRequest(role="snapshot", snapshot=snapshot, **values))


def bobs(core: Core) -> dict[str, str]:
    row = core.registry.find("bob", "mine")
    assert row is not None
    return core.launcher.volumes.read("bob", row.id)


@pytest.mark.parametrize("grantee", ["bob", "@devs"])
def test_a_shared_snapshot_becomes_a_session_of_the_guests_own(core: Core, grantee: str) -> None:
    async def scenario() -> None:
        source = await with_snapshots(core)
        await share(core, grantee)
        shared = (await core.shares.shared_list("bob")).snapshots
        assert [(each.session, each.snapshot, each.via) for each in shared] == [("alice.dev", 1, grantee)]
        assert (await core.shares.shared_list("bob")).sessions == [], "the session itself is not shown"
        made = await core.clones.clone("bob", "alice.dev", MINE)
        assert (made.owner, made.name, made.state, made.options) == ("bob", "mine", SessionState.STOPPED, [])
        assert bobs(core) == {"file": "first"}
        events = [(event.actor, event.action, event.detail) for event in core.registry.events_of("alice", source.id)]
        assert events[-1] == ("bob", "clone", "snapshot 1 as bob.mine")
        own = [(event.actor, event.detail) for event in core.registry.events_of("bob")]
        assert own[0] == ("bob", "of snapshot 1 of alice.dev")
        row = core.registry.find("bob", "mine")
        assert row is not None
        manifest = core.launcher.directories["bob", row.id].files["manifest.json"]
        assert (json.loads(manifest)["grants"], "alice" in manifest) == ([], False)

    asyncio.run(scenario())


def test_the_grant_gives_nothing_else(core: Core) -> None:
    async def scenario() -> None:
        await with_snapshots(core)
        await share(core)
        calls = {
            "show": core.sessions.show("bob", "alice.dev"),
            "stop": core.sessions.stop("bob", "alice.dev"),
            "snapshots": core.snapshots.snapshots("bob", "alice.dev"),
            "content": core.shares.content("bob", "alice.dev", "1"),
            "snapshot": core.snapshots.snapshot("bob", "alice.dev", SnapshotRequest()),
            "share": core.shares.share("bob", "alice.dev", "carol", ShareRequest(role="operate")),
        }
        for what, call in calls.items():
            with pytest.raises(RefusedError, match="your role there is snapshot"):
                await call
            assert core.registry.sessions_of("bob") == [], what
        for at in (None, "2", "9", "first", "second"):
            with pytest.raises(InvalidInputError, match=r"shared with you: 1\Z"):
                await core.clones.clone("bob", "alice.dev", CloneRequest(name="mine", at=at))
        with pytest.raises(NotFoundError):
            await core.clones.clone("carol", "alice.dev", MINE)
        assert core.registry.sessions_of("bob") == []

    asyncio.run(scenario())


def test_roles_and_snapshots_are_granted_side_by_side_and_end_together(core: Core) -> None:
    async def scenario() -> None:
        await with_snapshots(core)
        await core.shares.share("alice", "dev", "bob", ShareRequest(role="operate"))
        for number in ("1", "second", "1"):
            await share(core, snapshot=number)
        assert [grant.snapshot for grant in await core.shares.all("alice")] == [None, 2, 1]
        assert (await core.sessions.show("bob", "alice.dev")).owner == "alice"
        ended = await core.shares.unshare("alice", "dev", "bob", snapshot=2)
        assert [grant.snapshot for grant in ended.grants] == [2]
        with pytest.raises(NotFoundError):
            await core.shares.unshare("alice", "dev", "bob", snapshot=2)
        await core.clones.clone("bob", "alice.dev", MINE)
        ended = await core.shares.unshare("alice", "dev", "bob")
        assert [(grant.role, grant.snapshot) for grant in ended.grants] == [("operate", None), ("snapshot", 1)]
        with pytest.raises(NotFoundError):
            await core.clones.clone("bob", "alice.dev", CloneRequest(name="again", at="1"))
        assert bobs(core) == {"file": "first"}, "what was cloned stays"

    asyncio.run(scenario())


def test_the_role_of_a_group_counts_beside_a_snapshot_for_the_user(core: Core) -> None:
    async def scenario() -> None:
        await with_snapshots(core)
        await share(core)
        await core.shares.share("alice", "dev", "@devs", ShareRequest(role="operate"))
        assert (await core.sessions.show("bob", "alice.dev")).owner == "alice"

    asyncio.run(scenario())


@pytest.mark.parametrize("cause", ["deleted", "expired", "left"])
def test_a_grant_ends_with_its_snapshot_by_time_and_by_leaving(core: Core, clock: Clock, cause: str) -> None:
    async def scenario() -> None:
        await with_snapshots(core)
        await share(core, until=clock.now + 60)
        if cause == "deleted":
            await core.snapshots.delete_snapshot("alice", "dev", "1")
        elif cause == "expired":
            clock.now += 61
        else:
            assert [each.session for each in (await core.shares.leave("bob", "alice.dev")).grants] == ["alice.dev"]
        assert len(await core.shares.all("alice")) == (1 if cause == "expired" else 0)
        assert (await core.shares.shared_list("bob")).snapshots == []
        with pytest.raises(NotFoundError):
            await core.clones.clone("bob", "alice.dev", MINE)

    asyncio.run(scenario())


def test_a_grant_ends_when_its_automatic_snapshot_makes_room(core: Core) -> None:
    async def scenario() -> None:
        row = await with_snapshots(core)
        await share(core)
        record = core.launcher.volumes.records["alice", row.id]
        del record.snapshots[0]  # as a rollback, or a job that continues another one, deletes the oldest
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        assert await core.shares.all("alice") == []
        assert (await core.shares.shared_list("bob")).snapshots == []
        with pytest.raises(NotFoundError):
            await core.clones.clone("bob", "alice.dev", MINE)
        with pytest.raises(NotFoundError):
            await core.shares.unshare("alice", "dev", "bob")

    asyncio.run(scenario())


def test_a_clone_that_misses_its_snapshot_ends_the_grant(core: Core) -> None:
    async def scenario() -> None:
        row = await with_snapshots(core)
        await share(core)
        core.launcher.volumes.records["alice", row.id].snapshots.clear()
        with pytest.raises(NotFoundError, match="does not exist any more"):
            await core.clones.clone("bob", "alice.dev", MINE)
        assert (await core.shares.shared_list("bob")).snapshots == []

    asyncio.run(scenario())


def test_grants_of_deleted_snapshots_do_not_count(tmp_path: Path) -> None:
    core = make_core(tmp_path, sharing={"max_grants": 1})

    async def scenario() -> None:
        row = await with_snapshots(core)
        await share(core)
        del core.launcher.volumes.records["alice", row.id].snapshots[0]
        await share(core, snapshot="2")
        assert [grant["snapshot"] for grant in core.row().grants] == [2]

    asyncio.run(scenario())


def test_a_share_that_races_with_the_deletion_leaves_no_grant(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        await with_snapshots(core)
        find = core.snapshot_lookup.find

        async def find_and_delete(session: Session, reference: str) -> SnapshotView:
            found = await find(session, reference)
            monkeypatch.undo()
            await core.snapshots.delete_snapshot("alice", "dev", "1")
            return found

        monkeypatch.setattr(core.snapshot_lookup, "find", find_and_delete)
        with pytest.raises(NotFoundError, match="deleted meanwhile"):
            await share(core)
        assert core.row().grants == []

    asyncio.run(scenario())


def test_the_guests_limits_and_names_are_asked_before_anything_is_made(tmp_path: Path) -> None:
    core = make_core(tmp_path, limits={"sessions": 1})

    async def scenario() -> None:
        source = await with_snapshots(core)
        await share(core)
        before = len(core.registry.events_of("alice", source.id))
        row = await core.stopped("own", user="bob")
        for name, kind in (("own", ConflictError), ("mine", RefusedError)):
            with pytest.raises(kind):
                await core.clones.clone("bob", "alice.dev", CloneRequest(name=name, at="1"))
        assert [each.id for each in core.registry.sessions_of("bob")] == [row.id]
        assert len(core.registry.events_of("alice", source.id)) == before

    asyncio.run(scenario())


def test_one_clone_at_a_time_gets_the_space_that_is_left(tmp_path: Path, clock: Clock) -> None:
    core = make_core(tmp_path, limits={"storage": 8000})

    async def scenario() -> None:
        row = await core.stopped()
        core.launcher.volumes.write("alice", row.id, "file", "x" * 5000)
        await core.snapshots.snapshot("alice", "dev", SnapshotRequest())
        await share(core)
        core.launcher.hangs["receive"] = "before"
        first = asyncio.create_task(core.clones.clone("bob", "alice.dev", MINE))
        await asyncio.wait_for(core.launcher.stuck.wait(), DEADLINE_S)
        second = CloneRequest(name="second", at="1")
        with pytest.raises(ConflictError, match="your clone mine is not complete yet"):
            await core.clones.clone("bob", "alice.dev", second)
        first.cancel()
        await core.operations.close()
        core.launcher.hangs.clear()
        clock.now += 1
        (made,) = core.registry.sessions_of("bob")
        assert (await core.operations.run(made)).state is SessionState.STOPPED
        with pytest.raises(BerthError, match="more than you may still use"):
            await core.clones.clone("bob", "alice.dev", second)
        assert [each.name for each in core.registry.sessions_of("bob")] == ["mine"]

    asyncio.run(scenario())


def test_without_a_measurement_no_clone_is_made_under_a_limit(tmp_path: Path) -> None:
    core = make_core(tmp_path, limits={"storage": 8000})

    async def scenario() -> None:
        await with_snapshots(core)
        await share(core)
        core.launcher.failures["usage"] = LauncherError("timed-out", "no answer")
        with pytest.raises(ConflictError, match="not measured yet"):
            await core.clones.clone("bob", "alice.dev", MINE)
        assert core.registry.sessions_of("bob") == []
        del core.launcher.failures["usage"]
        await core.clones.clone("bob", "alice.dev", MINE)
        assert bobs(core) == {"file": "first"}

    asyncio.run(scenario())


def test_a_clone_for_which_there_is_no_room_leaves_nothing(core: Core) -> None:
    async def scenario() -> None:
        source = await with_snapshots(core)
        await share(core)
        core.launcher.volumes.full = True
        with pytest.raises(BerthError, match="No space left"):
            await core.clones.clone("bob", "alice.dev", MINE)
        assert core.registry.sessions_of("bob") == []
        assert not [key for key in core.launcher.volumes.records if key[0] == "bob"]
        events = core.registry.events_of("alice", source.id)
        assert (events[-1].actor, events[-1].action) == ("bob", "clone"), "he may have read the files"

    asyncio.run(scenario())


def test_an_image_that_the_guest_cannot_use_is_refused_clearly(core: Core) -> None:
    async def scenario() -> None:
        row = await with_snapshots(core)
        await share(core)
        record = core.launcher.volumes.records["alice", row.id]
        record.snapshots[0] |= {"profile": "private", "version": "7", "digest": "sha256:" + "7" * 64}
        with pytest.raises(RefusedError, match="private@7, which you cannot use") as refused:
            await core.clones.clone("bob", "alice.dev", MINE)
        assert "--profile" in refused.value.hint
        await core.clones.clone("bob", "alice.dev", MINE.model_copy(update={"profile": row.profile}))
        assert bobs(core) == {"file": "first"}

    asyncio.run(scenario())


def test_a_site_without_sharing_says_that_it_needs_site_mode(tmp_path: Path) -> None:
    core = make_core(tmp_path, sharing={"enabled": False})

    async def scenario() -> None:
        await with_snapshots(core)
        for call in (core.shares.content("alice", "dev", "1"), core.clones.clone("bob", "alice.dev", MINE)):
            with pytest.raises(RefusedError) as refused:
                await call
            assert "needs site mode" in refused.value.hint

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "request_", [ShareRequest(role="snapshot"), ShareRequest(role="operate", snapshot="1")], ids=["none", "operate"]
)
def test_a_snapshot_belongs_to_its_role_alone(core: Core, request_: ShareRequest) -> None:
    async def scenario() -> None:
        await with_snapshots(core)
        with pytest.raises(InvalidInputError, match="for one snapshot"):
            await core.shares.share("alice", "dev", "bob", request_)
        with pytest.raises(NotFoundError):
            await share(core, snapshot="9")
        assert await core.shares.all("alice") == []

    asyncio.run(scenario())


def test_a_stored_snapshot_grant_without_a_number_gives_nothing(core: Core) -> None:
    async def scenario() -> None:
        row = await with_snapshots(core)
        added = {"grantee": "bob", "role": "snapshot", "until": None, "granted_at": clock.now()}
        core.registry.update(row.id, lambda _: ({"grants": [added]}, EventEntry("alice", "share")))
        with pytest.raises(InvalidInputError):
            await core.clones.clone("bob", "alice.dev", MINE)

    asyncio.run(scenario())
