"""The cluster as text: amounts of memory, its queue, and notes about what is shown of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_time, pluralize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.cluster import ClusterView, LargestRequest


_MIB_PER_GIB = 1024


def format_memory(mib: int) -> str:
    """Return whole GiB, rounded down so that a request of this size fits; MiB below one GiB."""
    return f"{mib} MiB" if mib < _MIB_PER_GIB else f"{mib // _MIB_PER_GIB} GiB"


def format_memory_use(used_mib: int, total_mib: int) -> str:
    """Return `used/all`, in the unit of all."""
    return f"{used_mib / _MIB_PER_GIB:.0f}/{format_memory(total_mib)}"


def describe_largest(largest: LargestRequest) -> str:
    """Return the largest request of each resource: each number stands for itself."""
    gpus = [pluralize(largest.gpus, "GPU")] if largest.gpus or largest.shards else []
    shards = [pluralize(largest.shards, "shard")] if largest.shards else []
    memory = format_memory(largest.memory_mib)
    return " or ".join([*gpus, *shards, pluralize(largest.cpus, "CPU"), memory])


def queue_lines(view: ClusterView) -> Iterator[str]:
    """Yield the lines about waiting jobs, the caller's last."""
    queue = view.queue
    if not queue.pending:
        yield "No job waits."
        return
    blocked = queue.pending - queue.startable
    yield f"{pluralize(queue.pending, 'job')} waiting" + (f", {blocked} of them held or delayed" if blocked else "")
    for waiting in queue.ahead_of:
        if waiting.ahead is None:
            place = "cannot start yet"
        else:
            place = "first in line" if waiting.ahead == 0 else f"{pluralize(waiting.ahead, 'job')} ahead"
        because = f" ({waiting.reason})" if waiting.reason not in {"", "None"} else ""
        yield f"{waiting.session}, job {waiting.job_id}: {place}{because}"


def cluster_notes(view: ClusterView, now: float) -> Iterator[str]:
    """Yield messages about the age of the answer and about what is missing."""
    for name in view.hidden:
        if name != "jobs":
            yield f"This site does not show {name} to users."
    if view.nodes_left_out:
        yield f"{pluralize(view.nodes_left_out, 'node')} left out."
    yield f"As of {format_time(view.as_of, now)}" + ("; Slurm does not answer." if view.stale else ".")
