"""Every Scheduler shows the nodes with the resources in use, and the partitions, alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm.node_state import NodeCondition
from slurm.nodes import FreeResources, Node
from slurm.partitions import Partition
from slurm.scheduler import NoAnswer
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.contract.cluster import Asker

pytestmark = pytest.mark.usefixtures("tidy")
WEEK_S = 7 * 86400
IDLE = FreeResources(gpus=2, shards=4, cpus=8, memory_mib=16000)


def nodes(asker: Asker) -> dict[str, Node]:
    return dict(asker.ask(asker.cluster.scheduler.nodes()))


def wait_until_idle(asker: Asker, node: str) -> None:
    """Return when nothing on the node is in use: the clean-up of earlier jobs takes some seconds."""
    wait_for(lambda: nodes(asker)[node].free == IDLE, what=f"{node} to be idle: {nodes(asker)[node]}", seconds=60)


def test_every_field_of_an_idle_node(asker: Asker) -> None:
    wait_until_idle(asker, "c1")
    found = nodes(asker)
    assert found.keys() == {"c1", "c2", "c3"}
    node = found["c1"]
    assert (node.condition, node.reason, node.state) == (NodeCondition.UP, "", "IDLE")
    assert set(node.partitions) == {"gpu", "urgent"}
    assert (node.cpus, node.cpus_used, node.memory_mib, node.memory_used_mib) == (8, 0, 16000, 0)
    assert [(gres.name, gres.total, gres.used) for gres in node.gres] == [("gpu", 2, 0), ("shard", 8, 0)]
    assert node.gres[0].type == "intel"


def test_partitions(asker: Asker) -> None:
    parts = asker.ask(asker.cluster.scheduler.partitions())
    assert parts == {
        "gpu": Partition("gpu", "UP", is_default=True, max_time_s=WEEK_S, nodes=3),
        "urgent": Partition("urgent", "UP", max_time_s=WEEK_S, nodes=3),
    }


@pytest.mark.parametrize(
    ("gres", "free"),
    [
        ("gpu:intel:1", IDLE._replace(gpus=1, cpus=7, memory_mib=15950)),
        ("shard:3", IDLE._replace(gpus=1, shards=4, cpus=7, memory_mib=15950)),
        ("shard:4", IDLE._replace(gpus=1, shards=4, cpus=7, memory_mib=15950)),
    ],
)
def test_job_uses_resources_until_it_ends(asker: Asker, name: str, gres: str, free: FreeResources) -> None:
    wait_until_idle(asker, "c1")
    job_id = asker.cluster.submit_with(name, gres)
    asker.wait_until(name, job_id, lambda state: state.runs)
    node = nodes(asker)["c1"]
    assert node.free == free, node
    assert (node.state, node.cpus_used, node.memory_used_mib) == ("MIXED", 1, 50)
    kind, _, count = gres.replace("intel:", "").partition(":")
    assert {each.name: each.used for each in node.gres} == {"gpu": 0, "shard": 0} | {kind: int(count)}


@pytest.mark.parametrize("reason", ["new kernel, 18:00", "Reason=x State=IDLE [root@now] CPUTot=9", "bell\x07 \x1b[2J"])
def test_drained_node_with_its_reason(asker: Asker, reason: str) -> None:
    with asker.cluster.drained("c2", reason):
        node = nodes(asker)["c2"]
        assert (node.condition, node.is_available, node.cpus) == (NodeCondition.DRAINING, False, 8)
        assert node.reason == reason
        assert node.free == FreeResources()
    wait_for(lambda: nodes(asker)["c2"].is_available, what="slurmd to answer slurmctld again")
    assert nodes(asker)["c2"].reason == ""


def test_no_answer_about_nodes_and_partitions_without_slurmctld(asker: Asker, name: str) -> None:
    asker.cluster.submit(name, held=True)
    with asker.cluster.outage("slurmctld", dead=False, survivor=name):
        for question in (asker.cluster.scheduler.nodes, asker.cluster.scheduler.partitions):
            with pytest.raises(NoAnswer):
                asker.ask(question())
    assert nodes(asker).keys() == {"c1", "c2", "c3"}
