"""Explain a session's state, and suggest what its user can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import NO_SPACE_LEFT
from broker.format import format_duration, format_time
from broker.schema.sessions import OTHER_HOST_KEY, SessionState
from broker.status_text import describe_idle, describe_state, pending_operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import JobView, SessionView

LONG_START_S = 60.0
"""Seconds after which a start takes longer than any should: the end of the log may tell why."""

_RESTART = "`berth start {name}` starts it again, with everything that was in it"

_GIVE_BACK = "; `berth resize {name} --gres=none` gives the GPU back, and it goes on without"

_AFTER_THE_END = {
    "OUT_OF_MEMORY": "`berth start {name} --mem=…` starts it with more memory; the files are as they were",
    "TIMEOUT": "`berth start {name} --time=…` gives it more time; `berth set {name} --continue always` has it go on",
    "NODE_FAIL": _RESTART + ", on another node if Slurm has one",
    "BOOT_FAIL": _RESTART + ", on another node if Slurm has one",
    "PREEMPTED": _RESTART + "; `berth set {name} --continue always` has it go on by itself",
    "CANCELLED": _RESTART,
    "COMPLETED": _RESTART,
    "DEADLINE": "`berth start {name} --deadline=…` with a later one, or without",
    "FAILED": "the end of its log, below, says what failed; `berth logs {name}` has all of it",
    "REFUSED": "change what stands in its way, and start it again: nothing was changed",
    "LOST": "`berth doctor` says whether Slurm answers; " + _RESTART,
}
"""Slurm's word for how the last job ended → what to do."""

_BY_ITSELF = {
    SessionState.SUBMITTING: "nothing: it is submitted as soon as Slurm answers; `berth doctor` says whether it does",
    SessionState.STARTING: "nothing: this takes seconds",
    SessionState.READY: "nothing: `berth ssh {name}` leads there",
    SessionState.STOPPING: "nothing: Slurm ends the job",
    SessionState.CHANGING: "nothing: it is over in a moment",
    SessionState.DELETING: "nothing: it is over in a moment",
}
"""States in which nobody has to do anything."""

_WHILE_QUEUED = {
    "Resources": "a shorter --time, or fewer resources, may fit in sooner: stop it and start it with those",
    "Priority": "a shorter --time, or fewer resources, may fit in sooner: stop it and start it with those",
    "BeginTime": "it starts by itself; `scontrol update JobId={job} StartTime=now` starts it at once",
    "JobHeldUser": "`scontrol release {job}` lets it start",
    "JobHeldAdmin": "ask the operators why, and when it is released",
    "PartitionTimeLimit": "stop it and start it with a shorter --time: it never starts like this",
    "PartitionConfig": "stop it and start it with less: it never starts like this",
    "PartitionDown": "ask the operators, or stop it and start it with another --partition",
    "NodeDown": "stop it and start it without --nodelist, or wait for the node",
    "ReqNodeNotAvail": "stop it and start it without --nodelist, or wait for the node",
    "Dependency": "it starts as soon as the session's former job is over",
    "QOSMaxJobsPerUserLimit": "end another job of yours, or stop it and start it with another --qos",
    "QOSMaxGRESPerUser": "stop another session of yours: `berth list` shows them",
    "AssocMaxJobsLimit": "end another job of yours, or stop it and start it with another --account",
    "AssocGrpGRES": "others of your account use them: `squeue -A ACCOUNT` shows who",
    "AssocGrpCpuLimit": "others of your account use them: `squeue -A ACCOUNT` shows who",
}
"""Slurm's reason for waiting → what can be done."""


def explain_session(view: SessionView, jobs: list[JobView], log: str, now: float) -> Iterator[tuple[str, str]]:
    """Titled lines: how it is, since when, what can be done; what the job itself said, if that matters."""
    yield "state", describe_state(view, now)
    if view.stale_since is not None:
        yield "but", f"Slurm has not answered since {format_time(view.stale_since, now)}: this is how it was then"
    if since := _since(view, jobs, now):
        yield "since", since
    if unused := describe_idle(view, now):
        yield "idle", unused + (_GIVE_BACK.format(name=view.name) if view.gpu_idle_since is not None else "")
    if advice := _advice(view, now):
        yield "do", advice.format(name=view.name, job=view.job_id)
    if view.state is SessionState.FAILED or _starts_long(view, now):
        for line in describe_last_end(log):
            yield "log", line


def describe_last_end(log: str) -> list[str]:
    """What the last job said went wrong or, if it did not, its last few lines."""
    begun = log.rfind(" berth: job ")
    lines = (log if begun < 0 else log[log.rfind("\n", 0, begun) + 1 :]).splitlines()
    errors = [line for line in lines if " berth: error: " in line]
    return errors[-3:] or lines[-5:]


def _since(view: SessionView, jobs: list[JobView], now: float) -> str:
    at: float | None = None
    if view.state in {SessionState.STOPPED, SessionState.FAILED}:
        at = view.ended_at
    elif view.state in {SessionState.STARTING, SessionState.READY}:
        at = view.started_at
    elif view.state is SessionState.QUEUED:
        at = view.submitted_at
    if at is None:
        return ""
    carried = sum(job.started_at is not None for job in jobs)
    which = f", in the {carried}. job that has run for it" if view.state is SessionState.READY and carried > 1 else ""
    return f"{format_time(at, now)} ({format_duration(now - at)} ago){which}"


def _advice(view: SessionView, now: float) -> str:
    if pending_operation(view) is not None:
        return "nothing: it is over in a moment"
    if OTHER_HOST_KEY in view.reason:
        return "`berth stop {name}`, then `berth start {name}`: its certificate is made for the key that is there then"
    if _starts_long(view, now):
        return "it takes unusually long: the end of its log is below; `berth stop {name}` gives up"
    if NO_SPACE_LEFT in view.reason:
        return "`berth gc` removes what nothing needs any more, `berth size {name}` says what takes how much"
    if view.state is SessionState.QUEUED:
        return _WHILE_QUEUED.get(view.reason, "nothing: it starts when Slurm lets it")
    return _BY_ITSELF.get(view.state) or _AFTER_THE_END.get(view.outcome, _RESTART)


def _starts_long(view: SessionView, now: float) -> bool:
    return view.state is SessionState.STARTING and view.started_at is not None and now - view.started_at > LONG_START_S
