"""Wait until a requested change is complete. Every command waits here. An interrupted wait says what continues.

All functions show progress, raise TimedOutError after `timeout` seconds, NotFoundError once the session is gone, and
InterruptedWaitError when the user presses Ctrl-C; nothing that was asked for is taken back by that.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.errors import InterruptedWaitError
from broker.cli.progress import ProgressLine, follow_session
from broker.cli.session_text import ENDED, state_line
from broker.errors import BerthError, ConflictError, NotFoundError, from_reason
from broker.schema.sessions import SessionState
from broker.status_text import describe_operation, pending_operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.cli.context import Invocation
    from broker.client.client import Client
    from broker.schema.sessions import OperationView, SessionView

STARTING_STATES = frozenset({SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING})
"""States of a session that becomes ready if nothing comes in between."""

LOG_LINES = 5
"""How many of the log's last lines come with the news that a session failed."""


def until_ready(invocation: Invocation, view: SessionView, *, timeout: float | None = None) -> SessionView:
    """Wait until one can log in. BerthError if the session fails, ConflictError if somebody stops it meanwhile."""
    with _watched(invocation, interrupted_start(view.name)) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            if latest.state is SessionState.READY:
                return latest
            if latest.state is SessionState.FAILED:
                break
            if latest.state not in STARTING_STATES and not pending_operation(latest):
                because = f": {latest.reason}" if latest.reason else ""
                raise ConflictError(f"{view.name} did not become ready, it is {latest.state}{because}")
            progress.show(state_line(latest))
    raise operation_error(invocation, latest)


def until_resized(
    invocation: Invocation, view: SessionView, before: int | None, *, timeout: float | None = None
) -> SessionView:
    """Wait until another job than `before` has made the session ready. ConflictError if none is to come any more."""
    error = InterruptedWaitError(f"interrupted; {view.name} goes on in another job as soon as Slurm has it")
    with _watched(invocation, error) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            if not latest.resizing and latest.job_id == before:
                raise ConflictError(
                    f"{view.name} was not resized", hint=f"`berth events {view.name}` says why; it is as it was"
                )
            if latest.job_id != before and latest.state is SessionState.READY:
                return latest
            if latest.job_id != before and latest.state not in STARTING_STATES:
                break
            progress.show(state_line(latest))
    raise operation_error(invocation, latest)


def until_ended(invocation: Invocation, view: SessionView, *, timeout: float | None = None) -> SessionView:
    """Wait until the job has ended and nothing is being done to the volumes, so that the session can be started."""
    with _watched(invocation, InterruptedWaitError(f"interrupted; {view.name} goes on stopping")) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            if latest.state in ENDED:
                return latest
            if latest.state not in {SessionState.STOPPING, SessionState.CHANGING}:
                raise ConflictError(f"{view.name} is not being stopped any more: it is {latest.state}")
            progress.show(state_line(latest))
    raise AssertionError("follow never ends")  # pragma: no cover


def until_gone(invocation: Invocation, view: SessionView, *, timeout: float | None = None) -> None:
    """Wait until the name is free again."""
    error = InterruptedWaitError(f"interrupted; {view.name} goes on being deleted")
    with contextlib.suppress(NotFoundError), _watched(invocation, error) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            if latest.state is SessionState.DELETED or latest.id != view.id:
                return
            progress.show(state_line(latest))


def until_done(
    invocation: Invocation, view: SessionView, *, timeout: float | None = None, ready: bool = False
) -> tuple[SessionView, OperationView]:
    """Wait until the operation that `view` is the answer to has been done; with `ready` also until one can log in
    again, if the session is started after it.

    Raises what a failed operation says: nothing is changed then. BerthError if the session fails afterwards.
    """
    asked = view.operation
    assert asked is not None, "the answer to a request for an operation names it"
    outcome, started = None, False
    with _watched(invocation, _interrupted(view.name, asked.verb)) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            outcome = outcome or _outcome(latest, asked)
            if outcome is not None and not (ready and latest.state in STARTING_STATES):
                break
            started = outcome is not None
            progress.show(state_line(latest))
    if started and latest.state is SessionState.FAILED:
        raise operation_error(invocation, latest)
    assert outcome is not None
    return latest, outcome


def until_made(
    invocation: Invocation, view: SessionView, *, timeout: float | None = None, ready: bool = False
) -> SessionView:
    """Wait until a session that is being cloned or restored is there; with `ready`, until one can log in.

    One that could not be made is gone again; one that could not be started is there all the same.
    """
    try:
        made = until_done(invocation, view, timeout=timeout, ready=ready)[0]
    except NotFoundError:
        raise BerthError(f"{view.name} could not be made", hint="`berth events` says why") from None
    if ready and made.state is not SessionState.READY:
        because = f": {made.reason}" if made.reason else ""
        raise BerthError(
            f"{view.name} is made, but did not become ready, it is {made.state}{because}",
            hint=f"`berth start {view.name}` starts it",
        )
    return made


def _outcome(view: SessionView, asked: OperationView) -> OperationView | None:
    """The operation once it is done, None while it is pending; raises what a failed one says."""
    operation = view.operation
    if operation is None or operation.id != asked.id:
        raise ConflictError(
            f"something else is done to {view.name} by now; how the {asked.verb} ended is not known here",
            hint=f"`berth events {view.name}` has both",
        )
    if operation.status == "failed":
        raise from_reason(operation.reason, operation.message, operation.hint)
    return operation if operation.status == "done" else None


def finish_operation(
    invocation: Invocation,
    view: SessionView,
    otherwise: str,
    *,
    no_wait: bool = False,
    timeout: float | None = None,
) -> None:
    """Wait for the operation that `view` is the answer to, the session's next start included, and tell what came of it.

    `otherwise` is said if the controller has no words for it. With `no_wait` only how far it is.
    """
    operation = view.operation
    if not no_wait:
        view, operation = until_done(invocation, view, timeout=timeout, ready=True)
    if invocation.json:
        output.print_json(view)
        return
    if operation is not None and operation.status == "done":
        output.print_note(operation.message or otherwise)
    if view.state not in ENDED:
        output.print_note(state_line(view))
    if operation is not None and operation.undo:
        output.print_note(f"to undo: {operation.undo}")


def operation_error(invocation: Invocation, view: SessionView) -> BerthError:
    """A failed session's error with its reason; the end of the log goes before it, where there is one."""
    if not invocation.json:
        for line in _log_end(invocation.client, view.name):
            output.print_note(f"  | {line}")
    return BerthError(
        f"{view.name} failed: {view.reason or view.outcome or 'its job ended'}",
        hint=f"`berth logs {view.name}` has the job's log; `berth start {view.name}` tries again",
    )


@contextlib.contextmanager
def asking(invocation: Invocation, name: str, verb: str) -> Iterator[None]:
    """While the controller is asked for an operation, which it answers after some seconds if it takes longer."""
    with _watched(invocation, _interrupted(name, verb)) as progress:
        if progress.changes:
            progress.show(f"{name}: {describe_operation(verb)}")
        yield


def _interrupted(name: str, verb: str) -> InterruptedWaitError:
    return InterruptedWaitError(
        f"interrupted; {name} goes on {describe_operation(verb)}", hint=f"`berth show {name}` says how far it is"
    )


def interrupted_start(name: str) -> InterruptedWaitError:
    """What Ctrl-C means to a session that is on its way: nothing."""
    return InterruptedWaitError(
        f"interrupted; {name} goes on starting",
        hint=f"`berth show {name}` says how far it is, `berth stop {name}` ends it",
    )


@contextlib.contextmanager
def _watched(invocation: Invocation, interrupted: InterruptedWaitError) -> Iterator[ProgressLine]:
    """A line of progress; Ctrl-C raises `interrupted`."""
    try:
        with ProgressLine(quiet=invocation.json) as progress:
            yield progress
    except KeyboardInterrupt:
        raise interrupted from None


def _log_end(client: Client, name: str) -> list[str]:
    try:
        return client.log(name, tail=4096).splitlines()[-LOG_LINES:]
    except BerthError:
        return []
