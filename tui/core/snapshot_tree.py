"""Snapshots as a tree: which snapshot the state of another began with, with labels, sizes and ages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.format import escape_controls, format_duration, format_size, format_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.schema.volumes import SizeReport, SnapshotView

TREE_HEADINGS = ("SNAPSHOT", "LABEL/WHY", "AGE", "SIZE", "PROFILE", "CONSISTENCY", "WHEN")
SHRINKING_TREE_COLUMN = TREE_HEADINGS.index("LABEL/WHY")
"""The column that is shortened if the tree does not fit."""


@dataclass(frozen=True, slots=True)
class SnapshotNode:
    """A snapshot in the tree."""

    snapshot: SnapshotView
    depth: int
    branch: str
    """The lines that connect it with its origin."""
    row: tuple[str, ...]
    """Its cells under TREE_HEADINGS; the first one begins with `branch`."""


_GAP = 2
_CHILD, _LAST, _BAR, _SPACE = "├─ ", "└─ ", "│  ", "   "


def find_origins(snapshots: Sequence[SnapshotView]) -> dict[int, int]:
    """Return for each snapshot the number of the one that its state began with; without those without an origin.

    The origin is the earlier snapshot whose stack of layers is the longest beginning of the later one's.
    """
    origins: dict[int, int] = {}
    ordered = sorted(snapshots, key=_number)
    for index, snapshot in enumerate(ordered):
        shared = [(_count_shared_layers(earlier, snapshot), earlier.number) for earlier in ordered[:index]]
        if shared and (best := max(shared))[0] > 0:
            origins[snapshot.number] = best[1]
    return origins


def snapshot_tree(
    snapshots: Sequence[SnapshotView],
    now: float,
    *,
    sizes: Mapping[int, int] | None = None,
) -> list[SnapshotNode]:
    """Return the snapshots in the order of the tree, each below its origin, older ones first.

    `sizes` has the bytes that a deletion of each snapshot would free, as far as they are known.
    """
    origins = find_origins(snapshots)
    below: dict[int | None, list[SnapshotView]] = {}
    for snapshot in sorted(snapshots, key=_number):
        below.setdefault(origins.get(snapshot.number), []).append(snapshot)
    nodes: list[SnapshotNode] = []
    waiting = [(snapshot, 0, "", "") for snapshot in reversed(below.get(None, []))]
    while waiting:
        snapshot, depth, branch, indent = waiting.pop()
        row = _row(snapshot, now, branch, None if sizes is None else sizes.get(snapshot.number))
        nodes.append(SnapshotNode(snapshot, depth, branch, row))
        children = below.get(snapshot.number, [])
        for child in reversed(children):
            is_last = child is children[-1]
            line = indent + (_LAST if is_last else _CHILD)
            waiting.append((child, depth + 1, line, indent + (_SPACE if is_last else _BAR)))
    return nodes


def tree_lines(nodes: Sequence[SnapshotNode], cells: int) -> tuple[str, list[str]]:
    """Return the line of headings and a line for each node, all of at most `cells` characters."""
    rows = [TREE_HEADINGS, *(tuple(map(escape_controls, node.row)) for node in nodes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = sum(widths) + _GAP * (len(widths) - 1) - cells
    shrunk = widths[SHRINKING_TREE_COLUMN] - max(excess, 0)
    widths[SHRINKING_TREE_COLUMN] = max(shrunk, len(TREE_HEADINGS[SHRINKING_TREE_COLUMN]))
    headings, *lines = [
        _cut((" " * _GAP).join(_cut(cell, width).ljust(width) for cell, width in zip(row, widths, strict=True)), cells)
        for row in rows
    ]
    return headings, lines


def _cut(text: str, cells: int) -> str:
    text = text.rstrip()
    return text if len(text) <= cells else f"{text[: max(cells - 1, 0)]}…"


def snapshot_sizes(report: SizeReport) -> dict[int, int]:
    """Return the bytes that a deletion of each snapshot would free."""
    return {
        int(line.what.removeprefix("snapshot ")): line.own
        for line in report.lines
        if line.what.removeprefix("snapshot ").isdigit()
    }


def _row(snapshot: SnapshotView, now: float, branch: str, size: int | None) -> tuple[str, ...]:
    reason = snapshot.label or snapshot.reason
    return (
        f"{branch}{snapshot.number}",
        f"{reason} (automatic)" if snapshot.automatic else reason,
        format_duration(now - snapshot.at),
        "" if size is None else format_size(size),
        f"{snapshot.profile}@{snapshot.version}",
        snapshot.consistency,
        format_time(snapshot.at, now),
    )


def _count_shared_layers(earlier: SnapshotView, later: SnapshotView) -> int:
    """Return how many layers of the later snapshot are the whole stack of the earlier one; 0 if it did not begin so.

    The home decides. The system counts only if both have one of the same profile, because a switch begins another.
    """
    if not _begins_with(later.home, earlier.home):
        return 0
    same_image = (earlier.profile, earlier.version) == (later.profile, later.version)
    system = len(earlier.system) if same_image and _begins_with(later.system, earlier.system) else 0
    return len(earlier.home) + system


def _begins_with(stack: Sequence[str], beginning: Sequence[str]) -> bool:
    return list(stack[: len(beginning)]) == list(beginning)


def _number(snapshot: SnapshotView) -> int:
    return snapshot.number
