"""Wait until a requested change is complete.

All functions show progress. They raise TimedOutError after `timeout` seconds, NotFoundError when the session is gone,
and InterruptedWaitError when the user presses Ctrl-C. The requested change continues in each case.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.amounts import WorkAmounts
from broker.cli.errors import InterruptedWaitError
from broker.cli.progress import ProgressLine, follow_session
from broker.errors import BerthError, ConflictError, NotFoundError, from_reason
from broker.schema.operations import OPERATIONS
from broker.schema.states import SessionState
from broker.text.session import ENDED, state_line
from broker.text.status import describe_operation, pending_operation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.cli.context import Invocation
    from broker.client.client import Client
    from broker.schema.sessions import OperationView, SessionView

STARTING_STATES = frozenset({SessionState.SUBMITTING, SessionState.QUEUED, SessionState.STARTING})
"""States from which a session becomes ready without a further request."""

LOG_LINES = 5
"""Lines of the log's end that are shown with a session's failure."""


def until_ready(invocation: Invocation, view: SessionView, *, timeout: float | None = None) -> SessionView:
    """Wait until the session is ready. BerthError if it fails, ConflictError if it is stopped.

    If the operation of `view` was undone meanwhile, its error, once the session is ready as before. A version that the
    session has not taken at its start is no error: the user reads why.
    """
    requested = view.operation
    with _show_progress(invocation, interrupted_start(view.name)) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            if latest.state is SessionState.READY:
                kind = None if requested is None else OPERATIONS.get(requested.verb)
                if requested is not None and kind is not None and kind.takes_version:
                    _note_version(invocation, latest, requested)
                elif requested is not None and not requested.reversed and _is_undone(latest, requested):
                    _outcome(latest, requested)
                return latest
            if latest.state is SessionState.FAILED:
                break
            if latest.state not in STARTING_STATES and not pending_operation(latest):
                because = f": {latest.reason}" if latest.reason else ""
                raise ConflictError(f"{view.name} did not become ready; it is {latest.state}{because}")
            progress.show(state_line(latest))
    raise operation_error(invocation, latest)


def _note_version(invocation: Invocation, view: SessionView, requested: OperationView) -> None:
    """Print whether the session has taken the version that it was offered."""
    if view.operation is not None and _is_same(view, requested) and not invocation.json:
        output.print_note(view.operation.message)


def until_resized(
    invocation: Invocation, view: SessionView, before: int | None, *, timeout: float | None = None
) -> SessionView:
    """Wait until the session is ready in another job than `before`. ConflictError if no other job is expected."""
    with _show_progress(invocation, InterruptedWaitError(_still_resizing("interrupted", view))) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            if not latest.resizing and latest.job_id == before:
                now = "has not changed" if latest.state is SessionState.READY else f"is {latest.state}"
                raise ConflictError(
                    f"{view.name} was not resized and {now}", hint=f"`berth events {view.name}` shows why"
                )
            if latest.job_id != before and latest.state is SessionState.READY:
                return latest
            if latest.job_id != before and latest.state not in STARTING_STATES:
                break
            progress.show(state_line(latest))
    raise operation_error(invocation, latest)


def _still_resizing(why: str, view: SessionView) -> str:
    if not view.beside:
        return f"{why}; {view.name} will continue in the new job when Slurm has queued it"
    moves = f"{view.name} runs on, and moves to the new job when that runs"
    return f"{why}; {moves}; `berth resize {view.name} --cancel` keeps it as it is"


def until_ended(invocation: Invocation, view: SessionView, *, timeout: float | None = None) -> SessionView:
    """Wait until the job has ended and no operation is pending, so that the session can be started."""
    with _show_progress(invocation, InterruptedWaitError(f"interrupted; {view.name} is still stopping")) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            if latest.state in ENDED:
                return latest
            if latest.state not in {SessionState.STOPPING, SessionState.CHANGING}:
                raise ConflictError(f"{view.name} is no longer stopping; it is {latest.state}")
            progress.show(state_line(latest))
    raise AssertionError("follow never ends")  # pragma: no cover


def until_gone(invocation: Invocation, view: SessionView, *, timeout: float | None = None) -> None:
    """Wait until the session is deleted and its name is free."""
    error = InterruptedWaitError(f"interrupted; {view.name} is still being deleted")
    amounts = WorkAmounts(invocation, view.name, view.id)
    with contextlib.suppress(NotFoundError), _show_progress(invocation, error, amounts) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            if latest.state is SessionState.DELETED or latest.id != view.id:
                return
            progress.show(state_line(latest))


def until_done(
    invocation: Invocation,
    view: SessionView,
    *,
    timeout: float | None = None,
    ready: bool = False,
    source: str = "",
) -> tuple[SessionView, OperationView]:
    """Wait until the operation of `view` is done; with `ready`, also until the session is ready if it is started again.

    `source`: the id of the session or environment whose files are copied, if it is another one.

    Raises the error of a failed operation, which changed nothing, or was undone because the session did not become
    ready; with `ready`, when the session is as before. BerthError if the session fails afterwards.
    """
    requested = view.operation
    assert requested is not None, "the response to an operation's request names the operation"
    outcome, started = None, False
    amounts = WorkAmounts(invocation, view.name, source or view.id)
    with _show_progress(invocation, _interrupted_operation(view.name, requested.verb), amounts) as progress:
        for latest in follow_session(invocation.client, view, timeout=timeout):
            starts = ready and latest.state in STARTING_STATES
            undone = _is_undone(latest, requested)
            started = started or undone
            if started and latest.state is SessionState.FAILED:
                break
            if not (starts and undone) and (outcome is None or _is_same(latest, requested)):
                outcome = _outcome(latest, requested)
            if outcome is not None and not starts:
                break
            started = outcome is not None
            progress.show(state_line(latest))
    if started and latest.state is SessionState.FAILED:
        raise operation_error(invocation, latest)
    assert outcome is not None
    return latest, outcome


def until_made(
    invocation: Invocation,
    view: SessionView,
    *,
    timeout: float | None = None,
    ready: bool = False,
    source: str = "",
) -> SessionView:
    """Wait until a cloned or restored session is created; with `ready`, until it is ready. `source` as in `until_done`.

    BerthError if it could not be created, and if it was created but could not be started.
    """
    try:
        created = until_done(invocation, view, timeout=timeout, ready=ready, source=source)[0]
    except NotFoundError:
        raise BerthError(f"{view.name} could not be created", hint="`berth events` shows why") from None
    if ready and created.state is not SessionState.READY:
        because = f": {created.reason}" if created.reason else ""
        raise BerthError(
            f"{view.name} was created but did not become ready; it is {created.state}{because}",
            hint=f"`berth start {view.name}` starts it",
        )
    return created


def _outcome(view: SessionView, requested: OperationView) -> OperationView | None:
    """Return the operation if it is done, None while it is pending; raise the error of a failed operation."""
    operation = view.operation
    if operation is None or operation.id != requested.id:
        raise ConflictError(
            f"another operation on {view.name} has begun; the result of the {requested.verb} is not shown here",
            hint=f"`berth events {view.name}` shows both",
        )
    if operation.status == "failed":
        raise from_reason(operation.reason, operation.message, operation.hint)
    return operation if operation.status == "done" else None


def _is_same(view: SessionView, requested: OperationView) -> bool:
    return view.operation is not None and view.operation.id == requested.id


def _is_undone(view: SessionView, requested: OperationView) -> bool:
    return view.operation is not None and _is_same(view, requested) and view.operation.reversed


def finish_operation(
    invocation: Invocation,
    view: SessionView,
    otherwise: str,
    *,
    no_wait: bool = False,
    timeout: float | None = None,
) -> None:
    """Wait for the operation of `view` and for the session's next start, and print the result.

    `otherwise` is printed if the operation has no message. With `no_wait`, print the current state only.
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
    """Print the end of a failed session's log, and return its error."""
    if not invocation.json:
        for line in _log_end(invocation.client, view.name):
            output.print_note(f"  | {line}")
    return BerthError(
        f"{view.name} failed: {view.reason or view.outcome or 'its job ended'}",
        hint=f"`berth logs {view.name}` shows the job's log; `berth start {view.name}` tries again",
    )


@contextlib.contextmanager
def show_request_progress(invocation: Invocation, name: str, verb: str, *, source: str = "") -> Iterator[None]:
    """Show progress while the controller handles the request for an operation, which may take some seconds.

    `source`: the name of the session whose files are copied, if it is another one.
    """
    amounts = WorkAmounts(invocation, source or name)
    with _show_progress(invocation, _interrupted_operation(name, verb), amounts, f"{name}: {describe_operation(verb)}"):
        yield


@contextlib.contextmanager
def show_work_progress(invocation: Invocation, what: str, amounts: WorkAmounts) -> Iterator[None]:
    """Show progress of a call that works on a session's files, such as `comparing dev`, and that is no operation.

    After Ctrl-C, InterruptedWaitError: the controller finishes the work.
    """
    error = InterruptedWaitError(
        f"interrupted; {what} continues in the background, without a result here", hint="repeat the command"
    )
    with _show_progress(invocation, error, amounts, what):
        yield


def _interrupted_operation(name: str, verb: str) -> InterruptedWaitError:
    return InterruptedWaitError(
        f"interrupted; {name} is still {describe_operation(verb)}", hint=f"`berth show {name}` shows its progress"
    )


def interrupted_start(name: str) -> InterruptedWaitError:
    """Return the error for Ctrl-C while a session starts; the start continues."""
    return InterruptedWaitError(
        f"interrupted; {name} is still starting",
        hint=f"`berth show {name}` shows its progress, `berth stop {name}` cancels it",
    )


@contextlib.contextmanager
def _show_progress(
    invocation: Invocation, interrupted: InterruptedWaitError, amounts: WorkAmounts | None = None, text: str = ""
) -> Iterator[ProgressLine]:
    """Provide a line of progress; Ctrl-C raises `interrupted`."""
    try:
        with ProgressLine(text, quiet=invocation.json, amounts=amounts) as progress:
            yield progress
    except KeyboardInterrupt:
        raise interrupted from None


def _log_end(client: Client, name: str) -> list[str]:
    try:
        return client.log(name, tail=4096).splitlines()[-LOG_LINES:]
    except BerthError:
        return []
