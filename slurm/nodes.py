"""The nodes of a cluster, from `scontrol show nodes`.

pyslurm does not pass on which resources of a node are in use, but only their sums in TRES that accounting tracks. So
both back ends read the lines of scontrol.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from slurm.node_gres import NodeGres, free_gpus, free_shards, parse_node_gres
from slurm.node_state import NodeCondition, takes_jobs

SHOW_NODES = ("scontrol", "--oneliner", "--details", "--all", "show", "nodes")
"""The command that prints a line for each node."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as slurmctld shows it."""

    name: str
    condition: NodeCondition
    reason: str = ""
    """The text of the operator, or of Slurm, that explains why the node is down or takes no jobs."""
    state: str = ""
    """Slurm's words, such as `IDLE+DRAIN`."""
    partitions: tuple[str, ...] = ()
    cpus: int = 0
    """CPUs for jobs, without those that are reserved for the system."""
    cpus_used: int = 0
    memory_mib: int = 0
    """Memory for jobs, without that which is reserved for the system."""
    memory_used_mib: int = 0
    gres: tuple[NodeGres, ...] = ()

    @property
    def is_available(self) -> bool:
        """Whether the node takes new jobs now, by its state."""
        return takes_jobs(self.state)

    @property
    def free(self) -> FreeResources:
        """The resources that a job can get now. A job needs at least one CPU and some memory."""
        cpus, memory = self.cpus - self.cpus_used, self.memory_mib - self.memory_used_mib
        if not self.is_available or cpus <= 0 or memory <= 0:
            return FreeResources()
        return FreeResources(free_gpus(self.gres), free_shards(self.gres), cpus, memory)


class FreeResources(NamedTuple):
    """Resources on one node that no job has."""

    gpus: int = 0
    shards: int = 0
    """Shards of the GPU with the most free ones."""
    cpus: int = 0
    memory_mib: int = 0


def parse_nodes(text: str) -> dict[str, Node]:
    """Return the nodes by name. ValueError if the last line is cut off, or a line cannot be read.

    Operators may write any text into a node's comment or reason, and slurmd reports the system's name. The fields that
    count come before these texts, or have other names, and the first of a name is taken.
    """
    *lines, rest = text.split("\n")
    if rest:
        raise ValueError("the last line is cut off")
    return {node.name: node for node in (_parse_node(line) for line in lines if line.startswith(_FIRST))}


_FIRST = "NodeName="
_FIELD = re.compile(r"(?:^| )([A-Za-z]+)=(\S*)")
_AUTHOR = re.compile(r"(.*) \[[^\[\]\s]+@\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\]")
"""The user who gave the reason, and the time, as scontrol adds them to its first line."""


def _parse_node(line: str) -> Node:
    head, _, reason = line.partition(" Reason=")
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(head):
        fields.setdefault(name, value)
    try:
        state = fields["State"]
        return Node(
            name=fields["NodeName"],
            condition=NodeCondition.parse(state),
            reason=_AUTHOR.sub(r"\1", reason.strip()),
            state=state,
            partitions=tuple(filter(None, fields.get("Partitions", "").split(","))),
            cpus=_number(fields, "CPUEfctv", "CPUTot"),
            cpus_used=_number(fields, "CPUAlloc"),
            memory_mib=_number(fields, "RealMemory") - _number(fields, "MemSpecLimit"),
            memory_used_mib=_number(fields, "AllocMem"),
            gres=parse_node_gres(fields.get("Gres", ""), fields.get("GresUsed", "")),
        )
    except KeyError as error:
        raise ValueError(f"a line has no {error}: {line[:200]!a}") from error


def _number(fields: dict[str, str], *names: str) -> int:
    """Return the first of these fields that is a number; else 0."""
    return next((int(fields[name]) for name in names if fields.get(name, "").isdecimal()), 0)
