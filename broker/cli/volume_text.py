"""A session's volumes as text: policy, layers on disk, snapshots, and the current operation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_time
from broker.status_text import describe_operation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from broker.schema.sessions import SessionView
    from broker.schema.volumes import SnapshotView

SNAPSHOT_HEADINGS = ("NUMBER", "WHEN", "", "LABEL/WHY", "PROFILE", "CONSISTENCY")

_DRIVERS = {
    "overlay": "only what changed is stored, in layers over each other",
    "reflink": "whole copies, which share their blocks on disk",
    "plain": "whole copies; snapshots are compressed",
}


def describe_last_operation(view: SessionView, now: float) -> str:
    """What is being done, or why the last attempt came to nothing; empty when there is nothing to tell."""
    operation = view.operation
    if operation is None or operation.status == "done":
        return ""
    since = format_time(operation.asked_at, now)
    if operation.status == "pending":
        return f"{describe_operation(operation.verb)}, since {since}"
    hint = f"; {operation.hint}" if operation.hint else ""
    return f"{operation.verb} at {since} failed and changed nothing: {operation.message}{hint}"


def describe_persistence(view: SessionView) -> str:
    """What is kept over a stop, such as `home kept; everything outside comes from base@1 at each start`."""
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


def describe_volumes(view: SessionView) -> Iterator[tuple[str, str]]:
    """How home and system lie on disk, as titled lines for `berth show`."""
    if view.volumes is None:
        return
    driver = view.volumes.driver
    words = _DRIVERS.get(driver)
    yield "storage", f"{driver}: {words}" if words else driver
    for promise in view.volumes.promises:
        yield "", promise
    if told := describe_layers(view):
        yield "layers", told
    if view.volumes.unflattened:
        yield "", f"cannot be joined: {view.volumes.unflattened}; `berth flatten {view.name}` tries again"
    count = view.volumes.snapshots
    yield "snapshots", f"{count}; `berth snapshots {view.name}` lists them" if count else "none"


def describe_layers(view: SessionView) -> str:
    """How many immutable layers there are, such as `3 under the home`; empty when there are none."""
    counts = view.volumes.layers.items() if view.volumes is not None else ()
    return ", ".join(f"{count} under the {side}" for side, count in counts if count)


def describe_consistency(snapshot: SnapshotView) -> str:
    """Of what moment the snapshot is, for people who must decide whether to trust it."""
    if snapshot.consistency == "stopped":
        return "of the session without a job, so nothing was at work in it"
    if snapshot.consistency == "frozen":
        return f"of the running session, frozen: all in it stood still for {_milliseconds(snapshot)}"
    return (
        "of the running session, crash-consistent: not all in it could be made to stand still, so files may be of "
        "slightly different moments"
    )


def snapshot_row(snapshot: SnapshotView, now: float) -> tuple[str, ...]:
    """One line of `berth snapshots`, under SNAPSHOT_HEADINGS."""
    pause = f" ({_milliseconds(snapshot)})" if snapshot.consistency == "frozen" else ""
    return (
        str(snapshot.number),
        format_time(snapshot.at, now),
        "automatic" if snapshot.automatic else "",
        snapshot.label or snapshot.reason,
        f"{snapshot.profile}@{snapshot.version}",
        snapshot.consistency + pause,
    )


def snapshot_name(snapshot: SnapshotView) -> str:
    """`snapshot 3`, or `snapshot 3 (before-upgrade)` for one with a label."""
    return f"snapshot {snapshot.number}{f' ({snapshot.label})' if snapshot.label else ''}"


def _milliseconds(snapshot: SnapshotView) -> str:
    return f"{snapshot.pause * 1000:.0f} ms"
