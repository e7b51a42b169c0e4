"""Types of the cluster: its nodes, partitions and queue, as Slurm shows them to the caller."""

from __future__ import annotations

from typing import Literal

from broker.schema.base import Strict, Timestamp

MAX_LISTED_NODES = 2000
"""Nodes in a response. Sums and largest requests count all nodes."""
MAX_LISTED_JOBS = 200
"""Waiting jobs in a response."""


class GresView(Strict):
    """One kind of generic resource, on a node or in a partition."""

    name: str
    """`gpu`, `shard`, or any other name of the site's."""
    type: str = ""
    """Such as `intel`; empty if the site names none."""
    total: int
    used: int


class NodeView(Strict):
    name: str
    state: str
    """Slurm's words, such as `MIXED` or `IDLE+DRAIN`. Words that Berth does not know are shown as they are."""
    available: bool
    """Whether the node takes new jobs now, by its state. Its resources may all be in use."""
    reason: str = ""
    """The explanation of operators, or of Slurm, for a node that is down or drained."""
    partitions: list[str]
    cpus: int
    """CPUs for jobs, without those that are reserved for the system."""
    cpus_used: int
    memory_mib: int
    """Memory for jobs, in MiB, without that which is reserved for the system."""
    memory_used_mib: int
    gres: list[GresView] = []


class LargestRequest(Strict):
    """The largest requests of one job on one node that fit into what is free now.

    Each number is for a request of that resource, with little of the others. Jobs ahead in the queue, and limits of
    accounts, may delay such a job nevertheless.
    """

    gpus: int
    """Whole GPUs. A GPU with a shard in use is not free."""
    shards: int
    """Shards of one GPU: Slurm gives a job shards of one GPU only, unless the site configures it otherwise."""
    cpus: int
    memory_mib: int


class PartitionUsage(Strict):
    """The sums over all nodes of a partition, also over those that take no jobs now."""

    available_nodes: int
    """Number of nodes that take new jobs now."""
    cpus: int
    cpus_used: int
    memory_mib: int
    memory_used_mib: int
    gres: list[GresView] = []


class PartitionView(Strict):
    name: str
    default: bool
    """Whether jobs without `--partition` get this one."""
    state: str
    """`UP`, `DOWN`, `DRAIN`, `INACTIVE`, or another word of Slurm's. Only an `UP` partition starts jobs."""
    max_time_s: int | None = None
    """The longest time limit in seconds; None without a limit."""
    default_time_s: int | None = None
    """The time limit in seconds of a job that requests none; None if that is `max_time_s`."""
    max_cpus_per_node: int | None = None
    max_memory_mib: int | None = None
    """The most memory of a job on one node, in MiB; None without a limit."""
    accounts: list[str] = []
    """The only accounts whose jobs the partition takes; empty if it takes those of all."""
    qos: list[str] = []
    """The only quality-of-service levels whose jobs it takes; empty if it takes those of all."""
    nodes: int
    """Number of all its nodes."""
    pending: int
    """Number of jobs that wait in this partition."""
    usage: PartitionUsage | None = None
    """None if the site hides nodes."""
    largest: LargestRequest | None = None
    """None if the site hides nodes."""


class WaitingSession(Strict):
    """A session of the caller whose job waits."""

    session: str
    job_id: int
    partitions: list[str]
    ahead: int | None
    """Number of jobs ahead in its partition; None while the job cannot start, such as a held one."""
    reason: str
    """Slurm's word, such as `Resources`."""


class QueuedJobView(Strict):
    """A waiting job of any user."""

    job_id: int
    user: str
    partitions: list[str]
    reason: str


class QueueView(Strict):
    pending: int
    """Number of jobs that wait. A job array counts once."""
    startable: int
    """Number of these that would start at the head of the queue. The others are held, delayed, or depend on jobs."""
    ahead_of: list[WaitingSession] = []
    jobs: list[QueuedJobView] = []
    """The startable jobs in Slurm's order, the next one first, at most 200. Empty if the site hides jobs or
    partitions."""


class ClusterView(Strict):
    """The cluster as Slurm showed it at `as_of`. Slurm is queried only for a request, and not again for `refresh_s`."""

    as_of: Timestamp
    refresh_s: float
    """Seconds for which an answer of Slurm's is used."""
    stale: bool
    """Whether Slurm has not answered since: this is its last answer."""
    hidden: list[Literal["jobs", "nodes", "partitions"]] = []
    """Things that the site hides from users (PrivateData in slurm.conf). Their lists are empty; with `jobs`, only the
    numbers of jobs are shown."""
    nodes: list[NodeView]
    """By name; at most 2,000."""
    nodes_left_out: int = 0
    """Number of nodes beyond these."""
    partitions: list[PartitionView]
    """By name, the default one first. Hidden partitions, and those that the caller's groups may not use, are missing,
    and so are their nodes."""
    queue: QueueView
    largest: LargestRequest | None = None
    """The largest requests over all these partitions; None if the site hides nodes or partitions."""
