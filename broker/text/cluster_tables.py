"""The cluster as text: the tables of `berth cluster`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_duration
from broker.text.cluster import format_memory, format_memory_use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.schema.cluster import ClusterView, GresView, NodeView, PartitionView

Table = tuple[list[str], list[list[str]], int]
"""Headings, rows, and the column that is shortened on a narrow terminal."""

_UNKNOWN = "-"
_GRES_HEADINGS = {"gpu": "GPUS", "shard": "SHARDS"}


def partition_table(view: ClusterView) -> Table:
    """Return the table of partitions. `*` marks the default one; numbers are `used/all`."""
    shown = _shown_gres([gres for part in view.partitions if part.usage for gres in part.usage.gres])
    headings = ["PARTITION", "STATE", "NODES", "CPUS", "MEMORY", *(_GRES_HEADINGS[name] for name in shown)]
    rows = [_partition_row(part, shown) for part in view.partitions]
    return [*headings, "WAITING", "LIMIT"], rows, headings.index("GPUS") if "gpu" in shown else 0


def largest_table(view: ClusterView) -> Table:
    """Return the table of the largest requests that would start now, by partition."""
    headings = ["STARTS NOW IN", "CPUS", "MEMORY", "GPUS", "SHARDS"]
    rows = [
        [part.name, str(each.cpus), format_memory(each.memory_mib), str(each.gpus), str(each.shards)]
        for part in view.partitions
        if (each := part.largest) is not None
    ]
    return headings, rows, 0


def node_table(nodes: Sequence[NodeView]) -> Table:
    """Return the table of nodes."""
    shown = _shown_gres([gres for node in nodes for gres in node.gres])
    headings = ["NODE", "STATE", "CPUS", "MEMORY", *(_GRES_HEADINGS[name] for name in shown), "REASON"]
    rows = [
        [
            node.name,
            node.state,
            f"{node.cpus_used}/{node.cpus}",
            format_memory_use(node.memory_used_mib, node.memory_mib),
            *(_gres(node.gres, name) for name in shown),
            node.reason,
        ]
        for node in nodes
    ]
    return headings, rows, len(headings) - 1


def _partition_row(part: PartitionView, shown: Sequence[str]) -> list[str]:
    usage = part.usage
    limit = "none" if part.max_time_s is None else format_duration(part.max_time_s)
    name = f"{part.name}*" if part.default else part.name
    if usage is None:
        return [
            name,
            part.state,
            str(part.nodes),
            _UNKNOWN,
            _UNKNOWN,
            *(_UNKNOWN for _ in shown),
            str(part.pending),
            limit,
        ]
    return [
        name,
        part.state,
        f"{usage.available_nodes}/{part.nodes}",
        f"{usage.cpus_used}/{usage.cpus}",
        format_memory_use(usage.memory_used_mib, usage.memory_mib),
        *(_gres(usage.gres, name) for name in shown),
        str(part.pending),
        limit,
    ]


def _shown_gres(gres: Sequence[GresView]) -> list[str]:
    names = {each.name for each in gres}
    return [name for name in _GRES_HEADINGS if name in names]


def _gres(gres: Sequence[GresView], name: str) -> str:
    """Return `1/2`; with several types, each with its name."""
    found = [each for each in gres if each.name == name]
    if len(found) == 1:
        return f"{found[0].used}/{found[0].total}"
    return ", ".join(f"{each.type} {each.used}/{each.total}" for each in found) or _UNKNOWN
