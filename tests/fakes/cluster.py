"""A view of the lab's cluster, for the controller that plays a script."""

from __future__ import annotations

from broker.schema.cluster import (
    ClusterView,
    GresView,
    LargestRequest,
    NodeView,
    PartitionUsage,
    PartitionView,
    QueueView,
)


def node_view(name: str = "c1", **values: object) -> NodeView:
    """A node of the lab, half in use."""
    node = NodeView(
        name=name,
        state="MIXED",
        available=True,
        partitions=["gpu"],
        cpus=8,
        cpus_used=4,
        memory_mib=16000,
        memory_used_mib=2048,
        gres=[GresView(name="gpu", type="intel", total=2, used=1), GresView(name="shard", total=8, used=3)],
    )
    return node.model_copy(update=values)


def partition_view(name: str = "gpu", **values: object) -> PartitionView:
    """A partition of two such nodes."""
    usage = PartitionUsage(
        available_nodes=2,
        cpus=16,
        cpus_used=8,
        memory_mib=32000,
        memory_used_mib=4096,
        gres=[GresView(name="gpu", type="intel", total=4, used=2), GresView(name="shard", total=16, used=6)],
    )
    part = PartitionView(
        name=name,
        default=name == "gpu",
        state="UP",
        max_time_s=7 * 86400,
        nodes=2,
        pending=0,
        usage=usage,
        largest=LargestRequest(gpus=1, shards=4, cpus=4, memory_mib=13952),
    )
    return part.model_copy(update=values)


def cluster_view(**values: object) -> ClusterView:
    """A cluster of one partition with two nodes, and no job that waits."""
    part = partition_view()
    view = ClusterView(
        as_of=1_790_000_000.0,
        refresh_s=30.0,
        stale=False,
        nodes=[node_view("c1"), node_view("c2")],
        partitions=[part],
        queue=QueueView(pending=0, startable=0),
        largest=part.largest,
    )
    return view.model_copy(update=values)
