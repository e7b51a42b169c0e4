"""The columns of the list: which fit into a window, and their widths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tui.core import cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.schema.sessions import SessionView
    from tui.core.cells import Cell, CellContext

GAP = 1
"""Blanks between columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column with a fixed width; the one that grows takes the cells that are left."""

    id: str
    title: str
    width: int
    cell: Callable[[SessionView, CellContext], Cell]
    sort: str = ""
    """The sort key that a click on the title selects."""
    grows: bool = False


ALL_COLUMNS = (
    Column("name", "NAME", 18, cells.name_cell, "name"),
    Column("state", "STATE", 11, cells.state_cell, "state"),
    Column("where", "NODE/REASON", 15, cells.where_cell, "node", grows=True),
    Column("left", "TIME LEFT", 17, cells.left_cell, "left"),
    Column("gpu", "GPU", 12, cells.gpu_cell),
    Column("profile", "PROFILE", 20, cells.profile_cell, "profile"),
    Column("idle", "IDLE", 7, cells.idle_cell, "idle"),
    Column("stop", "STOPS", 22, cells.stop_cell),
    Column("clients", "CONNECTED", 18, cells.clients_cell),
    Column("snapshots", "SNAP", 5, cells.snapshots_cell),
    Column("job", "JOB", 9, cells.job_cell),
    Column("newer", "NEWER", 8, cells.newer_cell),
    Column("owner", "OWNER", 5, cells.owner_cell),
    Column("created", "SINCE", 17, cells.created_cell, "created"),
)
"""All columns, the most important ones first."""

REQUIRED = ("name", "state")
"""Columns that are always shown: a list must say which session is meant."""


@dataclass(frozen=True, slots=True)
class PlacedColumn:
    column: Column
    start: int
    width: int


def place_columns(width: int, chosen: Sequence[str] = ()) -> list[PlacedColumn]:
    """Return the columns that fit into `width` cells, in the user's order, or else in order of importance.

    Unknown ids are ignored. A growing column gets the rest of the width.
    """
    by_id = {column.id: column for column in ALL_COLUMNS}
    wanted = [by_id[each] for each in dict.fromkeys((*REQUIRED, *chosen)) if each in by_id] if chosen else ALL_COLUMNS
    fitting: list[Column] = []
    used = 0
    for column in wanted:
        if used + column.width > width and column.id not in REQUIRED:
            break
        fitting.append(column)
        used += column.width + GAP
    spare = max(0, width - (used - GAP))
    placed, start = [], 0
    for column in fitting:
        size = column.width + (spare if column.grows else 0)
        placed.append(PlacedColumn(column, start, size))
        start += size + GAP
    return placed
