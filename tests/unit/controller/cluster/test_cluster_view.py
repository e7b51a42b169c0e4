"""The view of the cluster has what the site shows to the caller, and the largest requests that would start now."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.cluster import service
from broker.controller.cluster import view as cluster_view
from broker.controller.cluster.groups import UserGroups
from broker.controller.cluster.view import VisibleCluster, build_visible
from broker.errors import SlurmUnavailableError
from broker.schema.cluster import ClusterView, GresView, LargestRequest, NodeView
from broker.schema.sessions import StartRequest
from slurm.node_gres import NodeGres
from slurm.node_state import NodeCondition
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.scheduler import FakeScheduler, SilentScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.fakes.core import Clock

LIMIT_S = 30.0


def play(tmp_path: Path, scene: Callable[[Core], Awaitable[None]], scheduler: FakeScheduler | None = None) -> None:
    async def scenario() -> None:
        await scene(Core.make(site_config(tmp_path), FakeLauncher(scheduler or FakeScheduler())))

    asyncio.run(scenario())


def node_named(view: ClusterView, name: str) -> NodeView:
    return next(node for node in view.nodes if node.name == name)


def test_idle_cluster(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        view = await core.cluster.view("alice")
        assert [node.name for node in view.nodes] == ["c1", "c2", "c3"]
        assert view.nodes[0] == NodeView(
            name="c1",
            state="IDLE",
            available=True,
            partitions=["gpu", "urgent"],
            cpus=8,
            cpus_used=0,
            memory_mib=16000,
            memory_used_mib=0,
            gres=[
                GresView(name="gpu", type="intel", total=2, used=0),
                GresView(name="shard", type="intel", total=8, used=0),
            ],
        )
        assert [(part.name, part.default, part.max_time_s, part.nodes) for part in view.partitions] == [
            ("gpu", True, 7 * 86400, 3),
            ("urgent", False, 7 * 86400, 3),
        ]
        usage = view.partitions[0].usage
        assert usage is not None
        assert (usage.available_nodes, usage.cpus, usage.memory_mib, usage.gres[0].total) == (3, 24, 48000, 6)
        assert view.largest == LargestRequest(gpus=2, shards=4, cpus=8, memory_mib=16000)
        assert (view.stale, view.hidden, view.queue.pending, view.refresh_s) == (False, [], 0, LIMIT_S)

    play(tmp_path, scene)


def test_largest_request_is_on_one_node_that_takes_jobs(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        gpu = NodeGres("gpu", "intel", 2, 1, frozenset({0}))
        shard = NodeGres("shard", "intel", 8, 1, shares=((0, 4), (1, 4)))
        core.scheduler.change_node("c1", cpus_used=3, memory_used_mib=4000, state="MIXED", gres=(gpu, shard))
        core.scheduler.change_node("c2", cpus_used=8, state="ALLOCATED")
        core.scheduler.set_node("c3", NodeCondition.DRAINING, "new kernel")
        view = await core.cluster.view("alice")
        assert view.largest == LargestRequest(gpus=0, shards=3, cpus=5, memory_mib=12000)
        assert (node_named(view, "c3").available, node_named(view, "c3").reason) == (False, "new kernel")
        usage = view.partitions[0].usage
        assert usage is not None
        assert (usage.available_nodes, usage.cpus, usage.cpus_used) == (2, 24, 11)
        assert [(gres.name, gres.used, gres.total) for gres in usage.gres] == [("gpu", 1, 6), ("shard", 1, 24)]

    play(tmp_path, scene)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "DOWN"}, (0, 0, 0, 0)),
        ({"is_reserved": True}, (0, 0, 0, 0)),
        ({"max_cpus_per_node": 4}, (2, 4, 4, 16000)),
        ({"max_memory_mib": 1000}, (2, 4, 8, 1000)),
    ],
)
def test_limits_of_a_partition_limit_its_largest_request(
    tmp_path: Path, fields: dict[str, Any], expected: tuple[int, ...]
) -> None:
    async def scene(core: Core) -> None:
        core.scheduler.change_partition("urgent", **fields)
        gpu, urgent = (await core.cluster.view("alice")).partitions
        assert urgent.largest is not None
        assert tuple(urgent.largest.model_dump().values()) == expected
        assert gpu.largest == LargestRequest(gpus=2, shards=4, cpus=8, memory_mib=16000)

    play(tmp_path, scene)


def test_unknown_state_is_shown_as_it_is_and_takes_no_jobs(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        core.scheduler.change_node("c1", state="MIXED+FROBNICATED", reason="x" * 500)
        node = node_named(await core.cluster.view("alice"), "c1")
        assert (node.state, node.available, len(node.reason)) == ("MIXED+FROBNICATED", False, cluster_view.MAX_TEXT)

    play(tmp_path, scene)


def test_queue_has_own_sessions_and_numbers_of_other_jobs(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        core.scheduler.private = frozenset({"jobs"})
        core.scheduler.submit("secret of bob's", user="bob")
        core.scheduler.submit("held", user="bob", held=True)
        await core.start("dev")
        await core.start("private-name", user="carol")
        view = await core.cluster.view("alice")
        assert (view.queue.pending, view.queue.startable, view.hidden) == (4, 3, ["jobs"])
        (own,) = view.queue.ahead_of
        assert (own.session, own.ahead, own.partitions) == ("dev", 1, ["gpu"])
        assert own.job_id == core.row("dev").job.job_id
        assert view.queue.jobs == []
        text = view.model_dump_json()
        for word in ("bob", "carol", "secret", "private-name"):
            assert word not in text, word

    play(tmp_path, scene)


def test_jobs_of_all_users_are_listed_where_slurm_shows_them(tmp_path: Path) -> None:
    async def scene(core: Core) -> None:
        first = core.scheduler.submit("secret of bob's", user="bob")
        core.scheduler.submit("held", user="bob", held=True)
        await core.start("private-name", user="carol")
        view = await core.cluster.view("alice")
        assert view.queue.jobs[0].job_id == first
        assert [job.user for job in view.queue.jobs] == ["bob", "carol"]
        assert view.queue.ahead_of == []
        assert "secret" not in view.model_dump_json()
        assert "private-name" not in view.model_dump_json()

    play(tmp_path, scene)


@pytest.mark.parametrize("private", [{"nodes"}, {"partitions"}, {"nodes", "partitions", "jobs", "users"}])
def test_hidden_nodes_and_partitions_are_not_asked_for(tmp_path: Path, private: set[str]) -> None:
    async def scene(core: Core) -> None:
        core.scheduler.private = frozenset(private)
        view = await core.cluster.view("alice")
        assert set(view.hidden) == private - {"users"}
        assert view.largest is None
        assert (view.nodes == [], view.partitions == []) == ("nodes" in private, "partitions" in private)
        assert not set(core.scheduler.asked) & (private - {"jobs"})
        if view.partitions:
            assert (view.partitions[0].nodes, view.partitions[0].usage, view.partitions[0].largest) == (3, None, None)
        if view.nodes:
            assert view.nodes[0].partitions == []

    play(tmp_path, scene)


def test_hidden_partitions_and_those_of_other_groups_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def groups(_: UserGroups, user: str) -> frozenset[str]:
        return frozenset({"staff"} if user == "alice" else ())

    monkeypatch.setattr(UserGroups, "of", groups)

    async def scene(core: Core) -> None:
        core.scheduler.change_partition("urgent", groups=("staff", "physics"))
        core.scheduler.change_partition("secret", is_hidden=True)
        core.scheduler.change_node("c9", partitions=("secret",), cpus=64)
        core.scheduler.change_node("c3", partitions=("urgent",), cpus=32)
        alice, bob = await core.cluster.view("alice"), await core.cluster.view("bob")
        assert [part.name for part in alice.partitions] == ["gpu", "urgent"]
        assert [part.name for part in bob.partitions] == ["gpu"]
        assert [node.name for node in alice.nodes] == ["c1", "c2", "c3"]
        assert [(node.name, node.partitions) for node in bob.nodes] == [("c1", ["gpu"]), ("c2", ["gpu"])]
        assert (alice.largest is not None and alice.largest.cpus, bob.largest is not None and bob.largest.cpus) == (
            32,
            8,
        )

    play(tmp_path, scene)


def test_long_lists_are_cut_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_view, "MAX_LISTED_NODES", 2)
    monkeypatch.setattr(cluster_view, "MAX_LISTED_JOBS", 3)

    async def scene(core: Core) -> None:
        core.scheduler.change_node("c10")
        for _ in range(5):
            core.scheduler.submit("x")
        view = await core.cluster.view("alice")
        assert ([node.name for node in view.nodes], view.nodes_left_out) == (["c1", "c2"], 2)
        assert (len(view.queue.jobs), view.queue.pending) == (3, 5)
        assert view.partitions[0].usage is not None
        assert view.partitions[0].usage.cpus == 32

    play(tmp_path, scene)


def test_last_answer_is_shown_as_stale_while_slurm_is_silent(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        silent = core.scheduler
        assert isinstance(silent, SilentScheduler)
        with pytest.raises(SlurmUnavailableError, match="Slurm does not answer") as failure:
            await core.cluster.view("alice")
        assert "try again" in failure.value.hint
        silent.silent = False
        clock.now += LIMIT_S
        began = clock.now
        assert not (await core.cluster.view("alice")).stale
        silent.silent = True
        clock.now += LIMIT_S * 30
        view = await core.cluster.view("alice")
        assert (view.stale, view.as_of, len(view.nodes)) == (True, began, 3)

    play(tmp_path, scene, SilentScheduler())


def test_slurm_is_queried_once_for_all_users_and_shared_with_the_node_watch(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.ready()
        clock.now += LIMIT_S
        core.scheduler.asked.clear()
        for user in ("alice", "bob", "carol"):
            await core.cluster.view(user)
        await core.tick()
        asked = [question for question in core.scheduler.asked if not question.startswith("jobs ")]
        assert sorted(asked) == ["nodes", "partitions", "private_data", "queue"]
        clock.now += LIMIT_S
        await core.tick()
        await core.cluster.view("alice")
        assert core.scheduler.asked.count("nodes") == 2

    play(tmp_path, scene)


def test_view_is_built_once_for_users_who_see_the_same(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[frozenset[str]] = []

    def build(*parts: Any) -> VisibleCluster:  # noqa: ANN401 - as build_visible takes them
        built.append(parts[3])
        return build_visible(*parts)

    monkeypatch.setattr(service, "build_visible", build)

    async def scene(core: Core) -> None:
        for _ in range(2):
            views = [await core.cluster.view(user) for user in ("alice", "bob", "alice")]
            assert views[0] == views[1] == views[2]
        assert len(built) == 1
        core.scheduler.set_node("c1", NodeCondition.DOWN)
        clock.now += LIMIT_S
        assert node_named(await core.cluster.view("alice"), "c1").state == "DOWN"
        assert len(built) == 2

    play(tmp_path, scene)


def test_nothing_is_queried_while_nobody_looks(tmp_path: Path, clock: Clock) -> None:
    async def scene(core: Core) -> None:
        await core.start("dev", request=StartRequest(profile="base"))
        for _ in range(5):
            clock.now += LIMIT_S
            await core.tick()
        assert not {"nodes", "partitions", "queue"} & set(core.scheduler.asked)

    play(tmp_path, scene)


def test_groups_of_a_user_are_those_of_the_name_service() -> None:
    async def scenario() -> None:
        groups = UserGroups()
        assert "root" in await groups.of("root")
        assert await groups.of("no-such-user") == frozenset()
        await groups.close()

    asyncio.run(scenario())


def test_name_service_that_does_not_answer_holds_up_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        groups = UserGroups()
        hang = asyncio.Event()

        async def look_up(_: UserGroups, __: str) -> None:
            await hang.wait()

        monkeypatch.setattr("broker.controller.cluster.groups.PATIENCE_S", 0.01)
        monkeypatch.setattr(UserGroups, "_look_up", look_up)
        assert await groups.of("alice") == frozenset()
        await groups.close()

    asyncio.run(scenario())
