"""The generic resources of a node, from the two texts in which Slurm shows them.

Configured ones: `gpu:intel:2(S:0-1),shard:intel:8`. Those in use: `gpu:intel:1(IDX:1),shard:intel:3(3/4,-/4)`, with
the numbers of the GPUs that jobs have, and for each GPU the shards in use; `-` if a job has the whole GPU. A text of
another form counts as no resource.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

GPU = "gpu"
SHARD = "shard"


@dataclass(frozen=True, slots=True)
class NodeGres:
    """One kind of generic resource on a node."""

    name: str
    type: str
    """Empty if the site names none."""
    total: int
    used: int
    used_devices: frozenset[int] = frozenset()
    """The numbers of the devices that jobs have, as far as Slurm shows them."""
    shares: tuple[tuple[int | None, int], ...] = ()
    """Of a resource that jobs share: used and all shares of each device, in the order of the devices. None if a job has
    the whole device."""


@functools.lru_cache(maxsize=4096)  # many nodes have the same texts
def parse_node_gres(configured: str, in_use: str) -> tuple[NodeGres, ...]:
    """Return the configured resources of a node with their use. Never raises."""
    used = list(_parse_items(in_use))
    totals: dict[tuple[str, str], int] = {}
    for item in _parse_items(configured):
        totals[item.name, item.type] = totals.get((item.name, item.type), 0) + item.count
    found = []
    for (name, kind), total in totals.items():
        same_name = [item for item in used if item.name == name]
        only_kind = sum(1 for other, _ in totals if other == name) == 1
        matching = [item for item in same_name if only_kind or item.type == kind]
        devices = frozenset(number for item in matching for number in _parse_numbers(item.detail))
        shares = tuple(share for item in matching for share in _parse_shares(item.detail))
        found.append(NodeGres(name, kind, total, sum(item.count for item in matching), devices, shares))
    return tuple(found)


def free_gpus(gres: Sequence[NodeGres]) -> int:
    """Return the number of GPUs of which no job has anything."""
    gpus = [each for each in gres if each.name == GPU]
    free = sum(each.total - each.used for each in gpus)
    taken = _devices(gpus)
    shared = {number for number, (used, _) in enumerate(_shares(gres)) if used}
    return max(0, free - len(shared - taken))


def free_shards(gres: Sequence[NodeGres]) -> int:
    """Return the largest number of shards that one GPU has left; of all GPUs if Slurm does not show each."""
    shards = [each for each in gres if each.name == SHARD]
    shares = _shares(gres)
    if not shares:
        return max(0, sum(each.total - each.used for each in shards))
    taken = _devices(each for each in gres if each.name == GPU)
    free = [total - used for number, (used, total) in enumerate(shares) if used is not None and number not in taken]
    return max(free, default=0)


def _devices(gres: Iterable[NodeGres]) -> frozenset[int]:
    return frozenset().union(*(each.used_devices for each in gres))


def _shares(gres: Iterable[NodeGres]) -> list[tuple[int | None, int]]:
    return [share for each in gres if each.name == SHARD for share in each.shares]


@dataclass(frozen=True, slots=True)
class _Item:
    name: str
    type: str
    count: int
    detail: str
    """The text in parentheses."""


_ITEM = re.compile(
    r"(?:gres[:/])?(?P<name>[^:,()]+)(?::(?P<type>(?!no_consume(?:[:(,]|$)|\d+[KMGTP]?(?:[(,]|$))[^:,()]+))?(?::no_consume)?"
    r"(?::(?P<count>\d{1,15})(?P<unit>[KMGTP]?))?(?:\((?P<detail>[^()]*)\))?(?:,|$)"
)
_SHARES = re.compile(r"(?:-|\d{1,9})/\d{1,9}(?:,(?:-|\d{1,9})/\d{1,9})*")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
"""Suffixes of Gres in slurm.conf(5)."""
_NONE = frozenset({"", "(null)", "N/A"})
MAX_DEVICES = 1024
"""Devices of one resource on a node; larger numbers are not read."""


def _parse_items(text: str) -> Iterator[_Item]:
    if text in _NONE:
        return
    for match in _ITEM.finditer(text):
        count = int(match["count"] or 1) * _UNITS[match["unit"] or ""]
        yield _Item(match["name"], match["type"] or "", count, match["detail"] or "")


def _parse_numbers(detail: str) -> Iterator[int]:
    """Read `IDX:0-1,3`."""
    kind, _, text = detail.partition(":")
    if kind != "IDX":
        return
    for first, last in re.findall(r"(\d{1,4})(?:-(\d{1,4}))?", text):
        yield from range(int(first), min(int(last or first), MAX_DEVICES) + 1)


def _parse_shares(detail: str) -> Iterator[tuple[int | None, int]]:
    """Read `3/4,-/4`."""
    if _SHARES.fullmatch(detail):
        for share in detail.split(","):
            used, _, total = share.partition("/")
            yield None if used == "-" else int(used), int(total)
