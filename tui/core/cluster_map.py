"""The cluster in pictures: bars of what is in use, and a map of nodes and GPUs. Each picture has its numbers beside it.

A terminal without Unicode gets other signs for the bars from `tui.ascii_filter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_duration, format_size, pluralize
from broker.text.cluster import cluster_notes, describe_largest, format_memory_use, queue_lines
from tui.core.signs import UNICODE, draw_bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from broker.schema.cluster import ClusterView, GresView, NodeView, PartitionView

_MIB = 2**20
_GPU, _SHARD = "gpu", "shard"
MAX_DRAWN_GPUS = 16
"""GPUs of a node of which each has a sign; of a node with more, only the numbers are shown."""
_MIN_BAR, _MAX_BAR = 8, 40
_BAR_OF_NODE = {200: 24, 110: 12, 0: 5}
"""Width of the window → cells of a node's bars."""
_NUMBERS_CELLS = 44
"""Cells beside a partition's bar."""
_LABEL_CELLS = 14


def cluster_lines(view: ClusterView, sessions: Mapping[str, Sequence[str]], now: float, cells: int) -> list[str]:
    """Return the partitions, the map of nodes and the queue. `sessions` has the names of the user's on each node."""
    lines: list[str] = []
    for part in view.partitions:
        lines += [*_partition_lines(part, cells), ""]
    if view.nodes:
        lines += [*_node_lines(view.nodes, sessions, cells), ""]
    return [*lines, *queue_lines(view), *cluster_notes(view, now)]


def _partition_lines(part: PartitionView, cells: int) -> Iterator[str]:
    limit = "" if part.max_time_s is None else f", at most {format_duration(part.max_time_s)}"
    usage = part.usage
    nodes = "" if usage is None else f"{usage.available_nodes} of {pluralize(part.nodes, 'node')} take jobs, "
    yield (
        f"{part.name}{' (default)' if part.default else ''}: {part.state}, {nodes}"
        f"{pluralize(part.pending, 'job')} waiting{limit}"
    )
    if usage is None:
        return
    width = min(max(cells - _NUMBERS_CELLS, _MIN_BAR), _MAX_BAR)
    for gres in usage.gres:
        yield _bar_line(_gres_label(gres), gres.used, gres.total, width)
    yield _bar_line("CPUs", usage.cpus_used, usage.cpus, width)
    used, total = format_size(usage.memory_used_mib * _MIB), format_size(usage.memory_mib * _MIB)
    yield _bar_line("memory", usage.memory_used_mib, usage.memory_mib, width, f"{used} of {total}")
    if part.largest is not None:
        yield f"  {'starts now':<{_LABEL_CELLS}} at most {describe_largest(part.largest)}, on one node"


def _bar_line(label: str, used: int, total: int, width: int, numbers: str = "") -> str:
    return f"  {label:<{_LABEL_CELLS}} |{_bar(used, total, width)}| {numbers or f'{used} of {total}'} in use"


def _bar(used: int, total: int, width: int) -> str:
    return draw_bar(used / total if total else 0.0, width, UNICODE)


def _gres_label(gres: GresView) -> str:
    name = {_GPU: "GPUs", _SHARD: "shards"}.get(gres.name, gres.name)
    return f"{name} ({gres.type})" if gres.type else name


def _node_lines(nodes: Sequence[NodeView], sessions: Mapping[str, Sequence[str]], cells: int) -> Iterator[str]:
    """Yield the map: a line for each node, with a sign for each of its GPUs."""
    bar = next(width for columns, width in _BAR_OF_NODE.items() if cells >= columns)
    headings = ["NODE", "GPUS", "SHARDS", "CPUS", "MEMORY", "YOURS", "STATE"]
    rows = [headings, *(_node_row(node, sessions.get(node.name, ()), bar) for node in nodes)]
    shown = [at for at in range(len(headings)) if any(row[at] for row in rows[1:])]
    widths = {at: max(len(row[at]) for row in rows) for at in shown}
    if "GPUS" in (headings[at] for at in shown):
        yield f"Nodes; each sign below GPUS is one: {UNICODE.full} in use, {UNICODE.empty} free"
    for row in rows:
        line = "  ".join(row[at].ljust(widths[at]) for at in shown).rstrip()
        yield line if len(line) <= cells else line[: cells - 1] + UNICODE.cut


def _node_row(node: NodeView, sessions: Sequence[str], bar: int) -> list[str]:
    memory = format_memory_use(node.memory_used_mib, node.memory_mib)
    return [
        node.name,
        _gpu_cells(node),
        _count_gres(node, _SHARD),
        f"{_bar(node.cpus_used, node.cpus, bar)} {node.cpus_used}/{node.cpus}",
        f"{_bar(node.memory_used_mib, node.memory_mib, bar)} {memory}",
        ", ".join(sessions),
        node.state + (f" ({node.reason})" if node.reason else ""),
    ]


def _gpu_cells(node: NodeView) -> str:
    used, total = _sum_gres(node, _GPU)
    signs = f"{_bar(used, total, total)} " if 0 < total <= MAX_DRAWN_GPUS else ""
    return signs + _count_gres(node, _GPU)


def _count_gres(node: NodeView, name: str) -> str:
    used, total = _sum_gres(node, name)
    return f"{used}/{total}" if total else ""


def _sum_gres(node: NodeView, name: str) -> tuple[int, int]:
    found = [each for each in node.gres if each.name == name]
    return sum(each.used for each in found), sum(each.total for each in found)
