"""The user and group ids that the present user namespace has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_ID = 2**32 - 2
"""The id after this one means `no id` to chown(2)."""


@dataclass(frozen=True, slots=True)
class IdMap:
    """Ranges of ids: the first of each, and how many."""

    ranges: tuple[tuple[int, int], ...]

    def __contains__(self, number: int) -> bool:
        return number <= MAX_ID and any(first <= number < first + count for first, count in self.ranges)


def read_id_map(name: str) -> IdMap:
    """Read `uid_map` or `gid_map` of this process, as user_namespaces(7) describes it."""
    lines = (Path("/proc/self") / name).read_text().splitlines()
    return IdMap(tuple((int(first), int(count)) for first, _, count in (line.split() for line in lines)))
