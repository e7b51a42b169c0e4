"""The cluster in pictures: every bar has its numbers, and what the site hides is not drawn."""

from __future__ import annotations

import pytest

from broker.schema.cluster import GresView, QueueView, WaitingSession
from tests.fakes.cluster import cluster_view, node_view, partition_view
from tui.core.cluster_map import cluster_lines

NOW = 1_790_000_060.0
GPU = GresView(name="gpu", type="intel", total=2, used=1)


def test_partition_has_a_bar_with_numbers_for_each_resource() -> None:
    assert cluster_lines(cluster_view(nodes=[]), {}, NOW, 64)[:6] == [
        "gpu (default): UP, 2 of 2 nodes take jobs, 0 jobs waiting, at most 7 d",
        "  GPUs (intel)   |██████████░░░░░░░░░░| 2 of 4 in use",
        "  shards         |████████░░░░░░░░░░░░| 6 of 16 in use",
        "  CPUs           |██████████░░░░░░░░░░| 8 of 16 in use",
        "  memory         |███░░░░░░░░░░░░░░░░░| 4.0 GiB of 31.2 GiB in use",
        "  starts now     at most 1 GPU or 4 shards or 4 CPUs or 13 GiB, on one node",
    ]


def test_map_has_a_sign_for_each_gpu_and_the_users_sessions() -> None:
    drained = node_view("c2", state="IDLE+DRAIN", reason="fan", available=False, cpus_used=0, memory_used_mib=0)
    view = cluster_view(partitions=[], nodes=[node_view("c1"), drained.model_copy(update={"gres": []})])
    assert cluster_lines(view, {"c1": ["dev", "train"], "elsewhere": ["x"]}, NOW, 80)[:4] == [
        "Nodes; each sign below GPUS is one: █ in use, ░ free",
        "NODE  GPUS    SHARDS  CPUS       MEMORY          YOURS       STATE",
        "c1    █░ 1/2  3/8     ██░░░ 4/8  █░░░░ 2/15 GiB  dev, train  MIXED",
        "c2                    ░░░░░ 0/8  ░░░░░ 0/15 GiB              IDLE+DRAIN (fan)",
    ]


def test_node_with_many_gpus_has_numbers_and_one_without_gpus_no_column() -> None:
    many = node_view(gres=[GresView(name="gpu", total=64, used=3)])
    assert "  3/64  " in cluster_lines(cluster_view(partitions=[], nodes=[many]), {}, NOW, 80)[2]
    lines = cluster_lines(cluster_view(partitions=[], nodes=[node_view(gres=[])]), {}, NOW, 80)
    assert lines[0] == "NODE  CPUS       MEMORY          STATE"


@pytest.mark.parametrize("cells", [20, 56, 76, 116, 246])
def test_no_line_of_the_map_is_longer_than_the_window(cells: int) -> None:
    nodes = [node_view(f"node{number:03}", reason="a long explanation " * 9) for number in range(40)]
    lines = cluster_lines(cluster_view(partitions=[], nodes=nodes), {}, NOW, cells)
    assert max(len(line) for line in lines[1:41]) <= cells


def test_hidden_nodes_leave_names_and_queue() -> None:
    waiting = WaitingSession(session="dev", job_id=7, partitions=["gpu"], ahead=2, reason="Resources")
    view = cluster_view(
        hidden=["nodes"],
        nodes=[],
        partitions=[partition_view(usage=None, largest=None, max_time_s=None, pending=1)],
        queue=QueueView(pending=1, startable=1, ahead_of=[waiting]),
        stale=True,
    )
    lines = cluster_lines(view, {}, NOW, 80)
    assert lines[:2] == ["gpu (default): UP, 1 job waiting", ""]
    assert "dev, job 7: 2 jobs ahead (Resources)" in lines
    assert "This site does not show nodes to users." in lines
    assert lines[-1].endswith("Slurm does not answer.")


def test_partition_without_nodes_is_drawn_empty() -> None:
    usage = partition_view().usage
    assert usage is not None
    empty = usage.model_copy(update={"available_nodes": 0, "cpus": 0, "cpus_used": 0, "gres": []})
    lines = cluster_lines(cluster_view(nodes=[], partitions=[partition_view(usage=empty, nodes=0)]), {}, NOW, 80)
    assert "| 0 of 0 in use" in lines[1]
