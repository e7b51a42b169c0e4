"""Explain a session's state, and suggest what its user can do."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import NO_SPACE_LEFT
from broker.format import format_duration, format_time
from broker.schema.sessions import OTHER_HOST_KEY, SessionState
from broker.text.status import describe_idle, describe_interruption, describe_state, pending_operation
from broker.text.volume import describe_last_operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.schema.sessions import JobView, SessionView

LONG_START_S = 60.0
"""Seconds after which a start is unusually slow; then the end of the log is shown."""

_RESTART = "`berth start {name}` starts it again with all its files"

_GIVE_BACK = "; `berth resize {name} --gres=none` releases the GPU and keeps the session running"

_CONTINUE = "`berth set {name} --continue always` lets it continue in a new job"

_AFTER_THE_END = {
    "OUT_OF_MEMORY": "start it again with a larger `--mem`; all files and other options are kept",
    "TIMEOUT": "start it again with a larger `--time`; " + _CONTINUE,
    "NODE_FAIL": _RESTART + ", on another node if possible",
    "BOOT_FAIL": _RESTART + ", on another node if possible",
    "PREEMPTED": _RESTART + "; " + _CONTINUE,
    "CANCELLED": _RESTART,
    "COMPLETED": _RESTART,
    "DEADLINE": "start it with a later `--deadline=…`, or without one",
    "FAILED": "see the end of its log below; `berth logs {name}` shows the whole log",
    "REFUSED": "nothing was changed; correct the options and start it again",
    "LOST": "`berth doctor` checks whether Slurm answers; " + _RESTART,
}
"""Slurm's state of the last job → advice."""

_WAIT = "no action needed; this takes a few seconds"

_BY_ITSELF = {
    SessionState.SUBMITTING: "no action needed: Berth submits the job when Slurm answers; `berth doctor` checks Slurm",
    SessionState.STARTING: "no action needed: this takes a few seconds",
    SessionState.READY: "no action needed: `berth ssh {name}` connects to it",
    SessionState.STOPPING: "no action needed: Slurm is ending the job",
    SessionState.CHANGING: _WAIT,
    SessionState.DELETING: _WAIT,
}
"""Advice for states in which no user action is needed."""

_ON_A_NODE = {
    "draining": "no action needed; `berth restart {name}` moves the session to another node now, and ends its programs",
    "not responding": "no action needed: if the node stays silent, Slurm requeues the job; the session keeps its files",
    "down": "no action needed: Slurm requeues or ends the job, and the session keeps its files",
}
"""Condition of a ready session's node → advice."""

_SCHEDULED = "no action needed: it starts when Slurm schedules it"
_REQUEUED = "no action needed: Berth asks Slurm to start the job without this pause"

_WHILE_QUEUED = {
    "Resources": "to start sooner, stop it and start it with a shorter --time or fewer resources",
    "Priority": "to start sooner, stop it and start it with a shorter --time or fewer resources",
    "BeginTime": "wait; or start it at once with `scontrol update JobId={job} StartTime=now`",
    "JobHeldUser": "release the job with `scontrol release {job}`",
    "JobHeldAdmin": "ask the operators why the job is held",
    "PartitionTimeLimit": "the job cannot start: stop it and start it with a shorter --time",
    "PartitionConfig": "the job cannot start: stop it and start it with fewer resources",
    "PartitionDown": "ask the operators, or stop it and start it with another --partition",
    "NodeDown": "stop it and start it without --nodelist, or wait for the node",
    "ReqNodeNotAvail": "stop it and start it without --nodelist, or wait for the node",
    "Dependency": "no action needed: it starts when the session's previous job has ended",
    "QOSMaxJobsPerUserLimit": "end another of your jobs, or stop it and start it with another --qos",
    "QOSMaxGRESPerUser": "stop another of your sessions; `berth list` shows them",
    "AssocMaxJobsLimit": "end another of your jobs, or stop it and start it with another --account",
    "AssocGrpGRES": "other users of your account use them; `squeue -A ACCOUNT` shows their jobs",
    "AssocGrpCpuLimit": "other users of your account use them; `squeue -A ACCOUNT` shows their jobs",
}
"""Slurm's reason for a pending job → advice."""


_SAVED = ("saved", "the system is saved")
_NOT_SAVED = (
    "the changes outside of the home could not be saved",
    "the changes outside of the home since the last save are lost",
    "what is outside of the home could not be saved",
    "what has changed outside of the home since the last save is lost",
)
"""Of the lines that a job writes to its log about saves of a system on the node's disk (ADR 120), also as the
scripts of earlier versions write them."""


TMP_REFUSED = " is not used for /tmp: "
"""Part of a job's warning about a directory that other users could replace."""
TMP_IN_MEMORY = "files in /tmp and /var/tmp count as this job's memory"
"""Words of the job's warning if no directory on a disk is allowed for /tmp (job/node/directory.sh)."""


def explain_session(view: SessionView, jobs: list[JobView], log: str, now: float) -> Iterator[tuple[str, str]]:
    """Yield titles and texts: state, duration, advice, and the end of the job's log if the session failed."""
    yield "state", describe_state(view, now)
    if view.stale_since is not None:
        yield "stale", f"Slurm has not answered since {format_time(view.stale_since, now)}; this is the state of then"
    if since := _since(view, jobs, now):
        yield "since", since
    if interruption := describe_interruption(view, now):
        yield "before", interruption
    yield from _undone_operation(view, now)
    if idle := describe_idle(view, now):
        yield "usage", idle + (_GIVE_BACK.format(name=view.name) if view.gpu_idle_since is not None else "")
    if view.state is SessionState.READY and is_tmp_in_memory(log):
        yield "memory", f"{TMP_IN_MEMORY}; put large files into the home"
    if loss := _find_save_failure(log):
        yield "saves", loss
    if advice := next_step(view, now):
        yield "do", advice
    if view.state is SessionState.FAILED or _starts_long(view, now):
        for line in describe_last_end(log):
            yield "log", line


def _undone_operation(view: SessionView, now: float) -> Iterator[tuple[str, str]]:
    if view.operation is not None and view.operation.reversed:
        yield "undone", describe_last_operation(view, now)


def next_step(view: SessionView, now: float) -> str:
    """Return what the user can do, with the command as it can be pasted."""
    return _advice(view, now).format(name=view.name, job=view.job_id)


def describe_last_end(log: str) -> list[str]:
    """Return the last job's error lines from the log; without any, its last few lines."""
    begun = log.rfind(" berth: job ")
    lines = (log if begun < 0 else log[log.rfind("\n", 0, begun) + 1 :]).splitlines()
    errors = [line for line in lines if " berth: error: " in line]
    return errors[-3:] or lines[-5:]


def is_tmp_in_memory(log: str) -> bool:
    """Whether the last job in the log has warned that its /tmp is in memory."""
    return TMP_IN_MEMORY in log[max(log.rfind(" berth: job "), 0) :]


def refused_tmp_directories(log: str) -> list[str]:
    """Return the warnings of the last job in the log about directories that it did not use for /tmp."""
    lines = log[max(log.rfind(" berth: job "), 0) :].splitlines()
    return [line.partition(" berth: warning: ")[2] for line in lines if TMP_REFUSED in line]


def _find_save_failure(log: str) -> str:
    """Return what the last job said of its last save of the system, if that save failed; else an empty text."""
    begun = max(log.rfind(" berth: job "), 0)
    for line in reversed(log[begun:].splitlines()):
        said = line.partition(" berth: ")[2]
        if said.startswith(_SAVED):
            return ""
        if any(words in said for words in _NOT_SAVED):
            return said.partition(": ")[2]
    return ""


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
    started = len({job.job_id for job in jobs if job.started_at is not None})
    which = f"; {_ordinal(started)} job of this session" if view.state is SessionState.READY and started > 1 else ""
    return f"{format_time(at, now)} ({format_duration(now - at)} ago){which}"


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _advice(view: SessionView, now: float) -> str:
    if pending_operation(view) is not None:
        return _WAIT
    return _advice_by_reason(view, now) or _advice_by_state(view)


def _advice_by_reason(view: SessionView, now: float) -> str:
    if OTHER_HOST_KEY in view.reason:
        return "`berth stop {name}`, then `berth start {name}`: Berth then certifies the present host key"
    if view.endpoint is not None and view.beside:
        return "no action needed: it moves when the other job runs; `berth resize {name} --cancel` keeps it in its job"
    if _starts_long(view, now):
        return "the start is unusually slow; see the end of its log below. `berth stop {name}` cancels it"
    if NO_SPACE_LEFT in view.reason:
        return "`berth gc` removes unused layers; `berth size {name}` shows the session's disk usage"
    return ""


def _advice_by_state(view: SessionView) -> str:
    if view.state is SessionState.QUEUED:
        paused = view.reason == "BeginTime" and view.interruption
        return _REQUEUED if paused else _WHILE_QUEUED.get(view.reason, _SCHEDULED)
    if view.state is SessionState.READY and view.node_condition in _ON_A_NODE:
        return _ON_A_NODE[view.node_condition]
    return _BY_ITSELF.get(view.state) or _start_with_more(view) or _AFTER_THE_END.get(view.outcome, _RESTART)


def _start_with_more(view: SessionView) -> str:
    """Return the command that doubles the option whose limit the job has reached; empty if the option was not given."""
    from profiles.recipe.duration import parse_duration, slurm_time
    from profiles.recipe.size import parse_size, slurm_size

    for option in view.options:
        name, _, value = option.partition("=")
        try:
            if view.outcome == "OUT_OF_MEMORY" and name in {"--mem", "--mem-per-cpu", "--mem-per-gpu"}:
                size = parse_size(value)
                if not size:  # all of the node's memory
                    return ""
                more = f"{name}={slurm_size(2 * size)}"
                return f"`berth start {{name}} {more}` doubles its memory; all files and other options are kept"
            if view.outcome == "TIMEOUT" and name == "--time":
                more = f"{name}={slurm_time(2 * parse_duration(value))}"
                return f"`berth start {{name}} {more}` doubles its time; " + _CONTINUE
        except ValueError:  # no limit, or a form of Slurm's that is not read here
            continue
    return ""


def _starts_long(view: SessionView, now: float) -> bool:
    return view.state is SessionState.STARTING and view.started_at is not None and now - view.started_at > LONG_START_S
