"""Start a session that has been started before: what the request may change, as pure functions."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from broker.controller import clock
from broker.controller.reconcile.stop import NO_TIME
from broker.controller.reconcile.succession import next_submission
from broker.controller.reconcile.upgrading import takes_offer
from broker.controller.registry.manifest import CHANGING
from broker.controller.registry.registry import EventEntry, JobChange
from broker.errors import ConflictError
from broker.schema.sessions import LIVE, STARTABLE, SessionState
from slurm.sbatch import merge_options

if TYPE_CHECKING:
    from broker.controller.registry.models import Session
    from broker.controller.registry.operation import Operation
    from broker.controller.registry.registry import RowChange, Transition
    from broker.schema.sessions import StartRequest


def next_options(session: Session, request: StartRequest) -> list[str]:
    """Return the options of the session's next job: its own, changed by the request's."""
    return merge_options([] if request.reset_options else session.options, request.options)


def check_unchanged(session: Session, request: StartRequest) -> None:
    """Raise ConflictError if the request differs from the live session, so that no option is silently ignored."""
    _check_profile(session, request)
    hint = f"`berth stop {session.name}` first"
    if session.root:
        raise ConflictError(f"{session.name} is in root mode, for commands as root", hint=f"{hint}, which ends it")
    if sorted(next_options(session, request)) != sorted(session.options):
        resize = f"`berth resize {session.name} {shlex.join(request.options)}` changes a ready session, or "
        raise ConflictError(
            f"{session.name} is {session.state.value} with other options",
            hint=f"{resize if request.options else ''}{hint}; the next start takes the new options",
        )
    if request.persistence is not None and request.persistence != session.policy:
        raise ConflictError(
            f"{session.name} is {session.state.value} with another persistence policy",
            hint=f"{hint}; the next start takes the new policy",
        )


def _check_profile(session: Session, request: StartRequest) -> None:
    other = request.profile not in {None, session.profile} or request.version not in {None, session.version}
    if other:
        target = f"{request.profile or session.profile}{f'@{request.version}' if request.version else ''}"
        raise ConflictError(
            f"{session.name} was created from {session.profile}@{session.version}",
            hint=f"leave --profile out, or `berth switch {session.name} {target}`, or start another session",
        )


def start_again(user: str, request: StartRequest, why: str, gpus: float, upgrade: Operation | None) -> Transition:
    """Start a session without a job again, for so many GPUs; with `upgrade`, an operation, it takes a version first.

    A session with a pending operation starts after that.
    """

    def decide(current: Session) -> RowChange | None:
        if current.state in LIVE - {SessionState.STOPPING}:
            return None
        entry = EventEntry(user, "start", f"{current.profile}@{current.version}" + (f", {why}" if why else ""))
        if current.pending is not None:
            _check_profile(current, request)
            return _start_afterwards(current, request), entry
        if current.state not in STARTABLE:
            raise ConflictError(
                f"{current.name} is {current.state.value}",
                hint=f"try again in a moment; `berth show {current.name}` shows its state",
            )
        _check_profile(current, request)
        values, job = next_submission(current)
        if upgrade is not None and takes_offer(current):
            values, job = {"state": SessionState.CHANGING, "reason": CHANGING, "operation": upgrade.record()}, {}
        else:
            job |= {"options": next_options(current, request), "gpus": gpus}
        values |= {"options": next_options(current, request), "used_at": clock.now(), **NO_TIME}
        if request.persistence is not None:
            values |= {"persistence": request.persistence.model_dump(), "persistence_chosen": True}
        return JobChange(values, entry, job=job)

    return decide


def _start_afterwards(current: Session, request: StartRequest) -> dict[str, Any]:
    """Return the columns of a session that will start after its pending operation."""
    operation = current.pending
    assert operation is not None
    if operation.kind.enters_root_mode or (request.persistence is not None and request.persistence != current.policy):
        raise operation.conflict(current.name)
    return {"operation": operation.replace(start=True).record(), "options": next_options(current, request)}
