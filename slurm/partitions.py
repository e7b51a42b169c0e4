"""The partitions of a cluster, from `scontrol show partition`.

All its fields come from slurm.conf or an operator, and no value has a blank in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHOW_PARTITIONS = ("scontrol", "--oneliner", "--all", "show", "partition")
"""The command that prints a line for each partition."""


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition as slurmctld shows it."""

    name: str
    state: str
    """Slurm's word: `UP`, `DOWN`, `DRAIN` or `INACTIVE`."""
    is_default: bool = False
    is_hidden: bool = False
    is_reserved: bool = False
    """Whether only root, or only jobs with a reservation, may use it."""
    groups: tuple[str, ...] = ()
    """The only groups whose users may use it; empty if all may. The same for accounts and qos."""
    accounts: tuple[str, ...] = ()
    qos: tuple[str, ...] = ()
    max_time_s: int | None = None
    default_time_s: int | None = None
    max_cpus_per_node: int | None = None
    max_memory_mib: int | None = None
    """Memory of a job on one node."""
    nodes: int = 0
    """Number of nodes."""


def parse_partitions(text: str) -> dict[str, Partition]:
    """Return the partitions by name. ValueError if the last line is cut off, or a line cannot be read."""
    *lines, rest = text.split("\n")
    if rest:
        raise ValueError("the last line is cut off")
    return {part.name: part for part in (_parse_partition(line) for line in lines if line.startswith(_FIRST))}


_FIRST = "PartitionName="
_FIELD = re.compile(r"(?:^| )([A-Za-z]+)=(\S*)")
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+)")


def _parse_partition(line: str) -> Partition:
    fields = dict(reversed(_FIELD.findall(line)))
    try:
        return Partition(
            name=fields["PartitionName"],
            state=fields["State"],
            is_default=fields.get("Default") == "YES",
            is_hidden=fields.get("Hidden") == "YES",
            is_reserved="YES" in {fields.get("RootOnly"), fields.get("ReqResv")},
            groups=_names(fields.get("AllowGroups", "")),
            accounts=_names(fields.get("AllowAccounts", "")),
            qos=_names(fields.get("AllowQos", "")),
            max_time_s=_seconds(fields.get("MaxTime", "")),
            default_time_s=_seconds(fields.get("DefaultTime", "")),
            max_cpus_per_node=_number(fields.get("MaxCPUsPerNode", "")),
            max_memory_mib=_number(fields.get("MaxMemPerNode", "")) or None,
            nodes=_number(fields.get("TotalNodes", "")) or 0,
        )
    except KeyError as error:
        raise ValueError(f"a line has no {error}: {line[:200]!a}") from error


def _names(text: str) -> tuple[str, ...]:
    return () if text in {"", "ALL", "(null)", "N/A"} else tuple(text.split(","))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _seconds(text: str) -> int | None:
    """Read `7-00:00:00`; None for `UNLIMITED` and `NONE`."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
