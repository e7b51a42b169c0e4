"""Describe the plan of a request, its losses and how to undo it, for questions of the command line and the TUI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.format import format_duration, format_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.schema.checks import CheckReport, StartEstimate, SwitchPreview
    from broker.schema.connections import ConnectionList
    from broker.schema.sessions import SessionView
    from broker.user_input import ProfileReference

STARTS_AT_ONCE_S = 30.0
"""Seconds until a start that count as none: Slurm looks for free resources at such intervals."""

UPGRADE_PLAN = "takes the version that it follows; keeps its home and a snapshot of its present state"
RESTART_PLAN = "restarts with its present options"


def describe_rollback_plan(snapshot: str) -> str:
    """Return the plan of a rollback."""
    return f"rolls back to snapshot {snapshot}; its present state becomes a snapshot"


def describe_switch_plan(view: SessionView, profile: ProfileReference) -> str:
    """Return the plan of a switch of the session to `profile`."""
    before = f"{view.profile}@{view.version}"
    return f"switches from {before} to {profile}; keeps its home and a snapshot of its present state"


def describe_switch_changes(view: SessionView, preview: SwitchPreview, *, fresh: bool) -> list[tuple[str, str, str]]:
    """Return what a switch changes beside the programs: a title, the present state, and the one afterwards."""
    from broker.text.volume import describe_persistence  # noqa: PLC0415 - few commands need it

    after = view.model_copy(update=preview.model_dump(include={"profile", "version"}))
    after = after.model_copy(update={"persistence": preview.persistence})
    about = f" ({preview.description})" if preview.description else ""
    present = None if preview.present_options is None else sorted(preview.present_options)
    options = " ".join(sorted(preview.options)) or "as Slurm sets them"
    before = "unknown, because its image is missing" if present is None else " ".join(present) or "as Slurm sets them"
    system = "empty" if fresh else "with the changes of its last use of this version, else empty"
    return [
        ("profile", f"{view.profile}@{view.version}", f"{preview.profile}@{preview.version}{about}"),
        ("resources", before, options),
        ("kept", describe_persistence(view), describe_persistence(after)),
        ("home", "", "the same"),
        ("system", "your changes outside the home, which go to a snapshot", system),
    ]


def describe_resize_plan(options: Sequence[str]) -> str:
    """Return the plan of a change of resources."""
    import shlex  # noqa: PLC0415 - few commands need it

    return f"continues in a new job with {shlex.join(options)}"


def describe_plan(report: CheckReport, plan: str, now: float) -> list[str]:
    """Return the plan with its effect on programs and, if Slurm was asked, the expected start of the next job."""
    name = report.session.name
    if report.unchanged:
        return [f"{name}: has these resources already; nothing would change"]
    effect = "it has no job and stays stopped"
    if report.ends_job:
        how = "in the same job" if report.keeps_job else "afterwards"
        effect = f"its programs end, and it is started again {how}"
    if report.beside:
        effect = "its programs run on until the new job runs, and end then"
    lines = [f"{name}: {plan}; {effect}"]
    if report.estimate is not None:
        describe = describe_beside if report.beside else describe_estimate
        lines.append(f"{name}: {describe(report.estimate, now)}")
    return lines


def describe_beside(estimate: StartEstimate, now: float) -> str:
    """Describe when Slurm would start the next job of a session that keeps its present job until then."""
    if estimate.at is None or estimate.at - now <= STARTS_AT_ONCE_S:
        return "Slurm expects to start the new job at once, beside the present one"
    expected = f"{format_time(estimate.at, now)} (in {format_duration(estimate.at - now)})"
    return f"Slurm expects to start the new job at {expected}; until then the session keeps its present job"


def describe_estimate(estimate: StartEstimate, now: float) -> str:
    """Describe when Slurm would start the next job of a session whose present job ends for it."""
    if estimate.at is None:
        return f"beside its present job, Slurm would not start the next one now: {estimate.refusal}"
    if estimate.at - now <= STARTS_AT_ONCE_S:
        return "Slurm expects to start it again at once"
    expected = f"{format_time(estimate.at, now)} (in {format_duration(estimate.at - now)})"
    if estimate.waiting is None:
        return f"it may have to wait; beside its present job, Slurm expects to start the next one at {expected}"
    if not estimate.waiting:
        return (
            "no other job waits for resources, so it may take those of its present job again at once; "
            f"without them, Slurm expects to start it at {expected}"
        )
    others = "1 other job waits" if estimate.waiting == 1 else f"{estimate.waiting} other jobs wait"
    return f"it may have to wait, since {others} for resources; Slurm expects to start it at {expected}"


def ask_end_programs(names: Sequence[str]) -> str:
    """Return the question before programs end; the files are kept."""
    return f"End all programs in {', '.join(names)}?"


def describe_use(presence: ConnectionList) -> str:
    """Return how many terminals, connections and guests in browsers a session has, such as `2 connections`; empty if
    none are known.
    """
    counts = {
        "open terminal": presence.terminals or 0,
        "connection": len(presence.connections),
        "guest": len({each.user for each in presence.guests}),
    }
    return ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items() if count)


def ask_stop(names: Sequence[str], used: Mapping[str, str]) -> str:
    """Return the question before a stop of sessions; `used` has the use of those that are in use."""
    texts = "; ".join(f"{name} is in use ({text})" for name, text in used.items())
    return f"{f'{texts}. ' if texts else ''}Stop {', '.join(names)}?"


def ask_delete(names: Sequence[str], *, purge: bool = False) -> str:
    """Return the question before sessions are deleted; with `purge`, they cannot be restored."""
    files = f"all {'its' if len(names) == 1 else 'their'} files"
    return f"Delete {', '.join(names)} and {files}{' permanently' if purge else ''}?"


def ask_delete_snapshot(name: str, snapshot: str) -> str:
    """Return the question before a snapshot is deleted."""
    return f"Delete snapshot {snapshot} of {name} permanently?"


def describe_deletion(view: SessionView, *, complete: bool) -> str:
    """Describe a deletion and, if the session can be restored, how and until when."""
    kept = " permanently"
    if view.kept_until is not None:
        kept = f"; `berth restore {view.name}` restores it until {format_time(view.kept_until)}"
    return f"{view.name} is {'deleted' if complete else 'being deleted'}{kept}"


LOST_PROGRAMS = "running programs, and what they have not saved"
LOST_NOTHING = "nothing: the present state becomes a snapshot"
LOST_UNTIL_RESTORED = "nothing yet: files and snapshots can be restored for a time that the site sets"
LOST_FILES = "all files and snapshots"
CANNOT_BE_UNDONE = "this cannot be undone"
UNDO_NOTHING = "there is nothing to undo: the files are kept, and ended programs stay ended"


def undo_stop(names: Sequence[str]) -> str:
    """Return how to undo a stop."""
    return f"`berth start {' '.join(names)}` starts {'it' if len(names) == 1 else 'them'} again with all files"


def undo_delete(names: Sequence[str]) -> str:
    """Return how to undo a deletion without `purge`."""
    return "; ".join(f"`berth restore {name}` restores it" for name in names)


def undo_resize(view: SessionView) -> str:
    """Return how to undo a change of resources."""
    import shlex  # noqa: PLC0415 - few commands need it

    if not view.options:
        return f"`berth stop {view.name}`, then `berth start {view.name} --reset-options` starts it as before"
    return f"`berth resize {view.name} {shlex.join(view.options)}` gives it the present resources again"


def undo_operation(name: str) -> str:
    """Return how to undo an operation that takes a snapshot first."""
    return f"the result names the snapshot; `berth rollback {name} SNAPSHOT` returns to it"
