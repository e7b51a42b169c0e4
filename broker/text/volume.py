"""A session's volumes as text: policy, layers on disk, snapshots, and the current operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_time
from broker.text.status import describe_operation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.schema.sessions import SessionView
    from broker.schema.volumes import SnapshotView

SNAPSHOT_HEADINGS = ("NUMBER", "WHEN", "", "LABEL/WHY", "PROFILE", "CONSISTENCY")

_DRIVERS = {
    "overlay": "stores only changes, as layers",
    "reflink": "whole copies, which share their blocks on disk",
    "plain": "whole copies; snapshots are compressed",
}


def describe_last_operation(view: SessionView, now: float) -> str:
    """Describe the pending operation, or the failure of the last one; empty if the last one succeeded.

    For example: `rollback at 12:03 failed and changed nothing: there is no snapshot 7`.
    """
    operation = view.operation
    if operation is None or operation.status == "done":
        return ""
    since = format_time(operation.asked_at, now)
    if operation.status == "pending":
        return f"{describe_operation(operation.verb)}, since {since}"
    hint = f"; {operation.hint}" if operation.hint else ""
    result = "was undone" if operation.reversed else "failed and changed nothing"
    return f"{operation.verb} at {since} {result}: {operation.message}{hint}"


def describe_persistence(view: SessionView) -> str:
    """Describe the persistence, such as `home kept; everything outside comes from base@1 at each start`."""
    persistence = view.persistence
    exceptions = [*persistence.keep, *persistence.fresh]
    if persistence.home == persistence.system == "keep" and not exceptions:
        return "everything"
    source = f"{view.profile}@{view.version}"
    home = "~/", f"/home/{view.owner}/"
    clauses = []
    for side, how, inside in (("home", persistence.home, True), ("everything outside", persistence.system, False)):
        others = persistence.fresh if how == "keep" else persistence.keep
        mine = [path for path in others if path.startswith(home) == inside]
        clauses.append(_clause(side, mine, source, kept=how == "keep"))
    return "; ".join(clauses)


def _clause(side: str, exceptions: Sequence[str], source: str, *, kept: bool) -> str:
    paths = ", ".join(exceptions)
    if not kept:
        return f"{side} comes from {source} at each start{f', except {paths}' if paths else ''}"
    again = "comes" if len(exceptions) == 1 else "come"
    return f"{side} kept{f', except {paths}, which {again} from {source} at each start' if paths else ''}"


def volume_rows(view: SessionView) -> Iterator[tuple[str, str]]:
    """Yield titles and texts about the volumes, for `berth show`."""
    if view.volumes is None:
        return
    driver = view.volumes.driver
    description = _DRIVERS.get(driver)
    yield "storage", f"{driver}: {description}" if description else driver
    for promise in view.volumes.promises:
        yield "", promise
    if layers := describe_layers(view):
        yield "layers", layers
    if view.volumes.unflattened:
        yield "", f"cannot be joined: {view.volumes.unflattened}; `berth flatten {view.name}` tries again"
    count = view.volumes.snapshots
    yield "snapshots", f"{count}; `berth snapshots {view.name}` lists them" if count else "none"


def describe_layers(view: SessionView) -> str:
    """Describe the number of immutable layers, such as `3 under the home`; empty if there are none."""
    counts = view.volumes.layers.items() if view.volumes is not None else ()
    return ", ".join(f"{count} under the {side}" for side, count in counts if count)


def describe_consistency(snapshot: SnapshotView) -> str:
    """Describe the consistency of a snapshot."""
    if snapshot.consistency == "stopped":
        return "of the stopped session"
    if snapshot.consistency == "frozen":
        return f"of the running session, with all processes frozen for {_milliseconds(snapshot)}"
    return (
        "of the running session, crash-consistent: not all processes could be frozen, so files may be of slightly "
        "different times"
    )


def snapshot_row(snapshot: SnapshotView, now: float) -> tuple[str, ...]:
    """Return a row of `berth snapshots`, under SNAPSHOT_HEADINGS."""
    pause = f" for {_milliseconds(snapshot)}" if snapshot.consistency == "frozen" else ""
    return (
        str(snapshot.number),
        format_time(snapshot.at, now),
        "automatic" if snapshot.automatic else "",
        snapshot.label or snapshot.reason,
        f"{snapshot.profile}@{snapshot.version}",
        snapshot.consistency + pause,
    )


def snapshot_name(snapshot: SnapshotView) -> str:
    """Return `snapshot 3`, or `snapshot 3 (before-upgrade)` if it has a label."""
    return f"snapshot {snapshot.number}{f' ({snapshot.label})' if snapshot.label else ''}"


def _milliseconds(snapshot: SnapshotView) -> str:
    return f"{snapshot.pause * 1000:.0f} ms"
