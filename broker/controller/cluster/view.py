"""Build the view of the cluster for one caller from answers of Slurm. Nothing here queries or waits."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.schema.cluster import (
    MAX_LISTED_JOBS,
    MAX_LISTED_NODES,
    GresView,
    LargestRequest,
    NodeView,
    PartitionUsage,
    PartitionView,
    QueuedJobView,
    QueueView,
    WaitingSession,
)
from slurm.nodes import FreeResources
from slurm.queue_position import count_jobs_ahead, startable_jobs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from slurm.node_gres import NodeGres
    from slurm.nodes import Node
    from slurm.partitions import Partition
    from slurm.queue_position import QueuedJob

MAX_TEXT = 200
"""Characters of a text of Slurm's, such as a node's reason."""
MAX_NAMES = 200
"""Names of accounts, or of QOS, of a partition."""


@dataclass(frozen=True, slots=True)
class VisibleCluster:
    """Nodes and partitions that a caller may see."""

    nodes: list[NodeView]
    """By name, MAX_LISTED_NODES of them."""
    nodes_left_out: int
    partitions: list[PartitionView]
    """The default one first, then by name."""

    @property
    def names(self) -> frozenset[str]:
        """The names of the partitions."""
        return frozenset(part.name for part in self.partitions)


def build_visible(
    nodes: Mapping[str, Node] | None,
    partitions: Mapping[str, Partition] | None,
    queue: Sequence[QueuedJob],
    groups: Collection[str],
) -> VisibleCluster:
    """Return nodes and partitions for a user of these groups; None for nodes or partitions that the site hides.

    As in sinfo(1), partitions that are hidden or for other groups are missing, and nodes of only such partitions.
    """
    shown = {part.name: part for part in (partitions or {}).values() if _is_visible(part, groups)}
    by_partition: dict[str, list[Node]] = {name: [] for name in shown}
    visible = []
    for node in (nodes or {}).values():
        names = [name for name in node.partitions if name in shown]
        if names or partitions is None:
            visible.append((node, names))
        for name in names:
            by_partition[name].append(node)
    waiting = Counter(name for job in queue for name in job.partitions.split(","))
    listed = sorted(visible, key=lambda each: _natural_order(each[0].name))[:MAX_LISTED_NODES]
    return VisibleCluster(
        nodes=[_node_view(node, names) for node, names in listed],
        nodes_left_out=len(visible) - len(listed),
        partitions=[
            _partition_view(part, waiting[part.name], None if nodes is None else by_partition[part.name])
            for part in sorted(shown.values(), key=lambda part: (not part.is_default, _natural_order(part.name)))
        ],
    )


def _node_view(node: Node, partitions: list[str]) -> NodeView:
    return NodeView(
        name=node.name,
        state=node.state[:MAX_TEXT],
        available=node.is_available,
        reason=node.reason[:MAX_TEXT],
        partitions=partitions,
        cpus=node.cpus,
        cpus_used=node.cpus_used,
        memory_mib=node.memory_mib,
        memory_used_mib=node.memory_used_mib,
        gres=_sum_gres([node]),
    )


def _partition_view(part: Partition, pending: int, nodes: Sequence[Node] | None) -> PartitionView:
    return PartitionView(
        name=part.name,
        default=part.is_default,
        state=part.state,
        max_time_s=part.max_time_s,
        default_time_s=part.default_time_s,
        max_cpus_per_node=part.max_cpus_per_node,
        max_memory_mib=part.max_memory_mib,
        accounts=list(part.accounts)[:MAX_NAMES],
        qos=list(part.qos)[:MAX_NAMES],
        nodes=part.nodes,
        pending=pending,
        usage=None if nodes is None else _usage(nodes),
        largest=None if nodes is None else _largest_in(part, nodes),
    )


def build_queue(
    queue: Sequence[QueuedJob], sessions: Mapping[int | None, str], listed_in: Collection[str] | None
) -> QueueView:
    """Return the queue for the owner of these sessions, by job id.

    Jobs of all users are listed if they wait in partitions of `listed_in`; with None, no job is listed.
    """
    ahead = count_jobs_ahead(queue)
    startable = startable_jobs(queue)
    own = [job for job in queue if job.id in sessions]
    listed = [job for job in startable if listed_in is not None and set(job.partitions.split(",")) <= set(listed_in)]
    return QueueView(
        pending=len(queue),
        startable=len(startable),
        ahead_of=[
            WaitingSession(
                session=sessions[job.id],
                job_id=job.id,
                partitions=job.partitions.split(","),
                ahead=ahead.get(job.id),
                reason=job.reason[:MAX_TEXT],
            )
            for job in own
        ],
        jobs=[_queued_job_view(job) for job in listed[:MAX_LISTED_JOBS]],
    )


def largest_of(partitions: Iterable[PartitionView]) -> LargestRequest | None:
    """Return the largest requests over these partitions; None if none of them has any."""
    found = [part.largest for part in partitions if part.largest is not None]
    if not found:
        return None
    return LargestRequest(
        gpus=max(each.gpus for each in found),
        shards=max(each.shards for each in found),
        cpus=max(each.cpus for each in found),
        memory_mib=max(each.memory_mib for each in found),
    )


def _is_visible(part: Partition, groups: Collection[str]) -> bool:
    return not part.is_hidden and (not part.groups or not set(part.groups).isdisjoint(groups))


def _usage(nodes: Sequence[Node]) -> PartitionUsage:
    return PartitionUsage(
        available_nodes=sum(node.is_available for node in nodes),
        cpus=sum(node.cpus for node in nodes),
        cpus_used=sum(node.cpus_used for node in nodes),
        memory_mib=sum(node.memory_mib for node in nodes),
        memory_used_mib=sum(node.memory_used_mib for node in nodes),
        gres=_sum_gres(nodes),
    )


def _sum_gres(nodes: Iterable[Node]) -> list[GresView]:
    by_kind: dict[tuple[str, str], list[NodeGres]] = {}
    for node in nodes:
        for gres in node.gres:
            by_kind.setdefault((gres.name, gres.type), []).append(gres)
    return [
        GresView(name=name, type=kind, total=sum(each.total for each in found), used=sum(each.used for each in found))
        for (name, kind), found in by_kind.items()
    ]


def _largest_in(part: Partition, nodes: Iterable[Node]) -> LargestRequest:
    """Return the largest requests in the partition: of each resource, that of the node with the most."""
    startable = part.state == "UP" and not part.is_reserved
    free = [node.free for node in nodes] if startable else []
    gpus, shards, cpus, memory = (max(column) for column in zip(FreeResources(), *free, strict=True))
    return LargestRequest(
        gpus=gpus,
        shards=shards,
        cpus=cpus if part.max_cpus_per_node is None else min(cpus, part.max_cpus_per_node),
        memory_mib=memory if part.max_memory_mib is None else min(memory, part.max_memory_mib),
    )


def _queued_job_view(job: QueuedJob) -> QueuedJobView:
    return QueuedJobView(
        job_id=job.id, user=job.user, partitions=job.partitions.split(","), reason=job.reason[:MAX_TEXT]
    )


def _natural_order(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a key that sorts `c2` before `c10`."""
    return tuple(
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.findall(r"\d+|\D+", name)
    )
