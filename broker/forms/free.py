"""Free resources of the cluster, as notes beside the fields of a form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_duration
from broker.text.cluster import format_memory

if TYPE_CHECKING:
    from broker.schema.cluster import ClusterView, LargestRequest


def free_notes(cluster: ClusterView, partition: str) -> dict[str, str]:
    """Return a note for each field of resources: what fits now on one node of the partition.

    Without a partition, the default one counts. A site that hides its nodes has only the names and time limits.
    """
    names = [each.name for each in cluster.partitions]
    chosen = [each for each in cluster.partitions if (each.name == partition if partition else each.default)]
    notes = {"partition": f"there are {', '.join(names)}" if names else ""}
    if not chosen:
        return notes | dict.fromkeys(("gpus", "cpus", "memory", "time"), "")
    found = chosen[0]
    limit = "" if found.max_time_s is None else f"at most {format_duration(found.max_time_s)}"
    return notes | {"time": limit} | _resource_notes(found.largest)


def _resource_notes(largest: LargestRequest | None) -> dict[str, str]:
    if largest is None:
        return dict.fromkeys(("gpus", "cpus", "memory"), "")
    shards = f" or {largest.shards} shards" if largest.shards else ""
    return {
        "gpus": f"free now: {largest.gpus}{shards}",
        "cpus": f"free now: {largest.cpus}",
        "memory": f"free now: {format_memory(largest.memory_mib)}",
    }
