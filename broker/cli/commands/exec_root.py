"""`berth exec --root`: start a session in root mode for one command, keep its changes, and leave root mode.

After a failed command, a lost connection, Ctrl-C or a closed terminal, the session also leaves root mode: it is started
again if it had a job, else stopped. Only SIGKILL leaves it in root mode; `berth show` then says how to end root mode.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, NoReturn

from broker.cli.connection_end import explain_end
from broker.cli.errors import InterruptedWaitError
from broker.cli.output import print_note
from broker.cli.prompts import announce_restart, check_request
from broker.cli.ssh_process import cannot_run, ssh_command
from broker.cli.ssh_watcher import SSH_FAILED, SUSPECT_CODES
from broker.cli.wait import show_request_progress, until_done, until_ended, until_ready
from broker.errors import BerthError, ConflictError
from broker.schema.sessions import SessionState, StartRequest
from broker.text.session import ENDED, has_job
from broker.text.status import pending_operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker.cli.context import Invocation
    from broker.schema.sessions import OperationView, SessionView

_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def run_as_root(
    invocation: Invocation, name: str, before: Sequence[str], command: str, *, keep: bool, yes: bool
) -> int:
    """Run `command`, quoted for a shell, as root in the session; return its exit code.

    Changes outside the home are kept if the code is 0 or `keep` is set, and ssh did not fail. `before`: options of
    ssh(1).
    """
    view = invocation.client.session(name)
    _check_free(view)
    if has_job(view):  # it is started again in normal mode afterwards, which limits could forbid
        check_request(invocation, name, yes=True, restart=True)
    announce_restart(
        invocation,
        check_request(invocation, name, yes=yes, root=True),
        "will start in root mode for this command",
        undone=f"nothing was run in {name}",
        yes=yes,
    )
    view = invocation.client.session(name)  # the user may have answered the question late
    _check_free(view)
    with _on_signals(_interrupt), _root_mode(invocation, name, had_job=has_job(view)):
        code = _run(invocation, name, before, command)
        if code == 0 or (keep and code != SSH_FAILED):
            _commit(invocation, name)
        else:
            _say(invocation, f"{_why_not_kept(code)}; its changes are discarded")
    return code


def _check_free(view: SessionView) -> None:
    """Raise ConflictError if another `berth exec --root` uses the session, or has left it in root mode."""
    if _in_root_mode(view):
        raise ConflictError(
            f"{view.name} is already in root mode for another command",
            hint=f"wait for that command; if it no longer runs, `berth stop {view.name}` ends root mode",
        )


def _in_root_mode(view: SessionView) -> bool:
    """Whether the session is in root mode, or enters it."""
    operation = pending_operation(view)
    return view.root or (operation is not None and operation.verb == "root")


@contextlib.contextmanager
def _root_mode(invocation: Invocation, name: str, *, had_job: bool) -> Iterator[None]:
    """Provide the session in root mode. If the request is refused, the session may serve another command: leave it."""
    try:
        view = _ask_for_root_mode(invocation, name)
    except InterruptedWaitError:
        _bring_back(invocation, name, had_job=had_job)
        raise
    try:
        _until_in_root_mode(invocation, view)
        yield
    finally:
        _bring_back(invocation, name, had_job=had_job)


def _ask_for_root_mode(invocation: Invocation, name: str) -> SessionView:
    try:
        with show_request_progress(invocation, name, "root"):
            return invocation.client.root(name)
    except InterruptedWaitError:
        raise InterruptedWaitError(f"interrupted; nothing was run in {name}") from None


def _until_in_root_mode(invocation: Invocation, view: SessionView) -> None:
    try:
        view, _ = until_done(invocation, view, ready=True)
    except InterruptedWaitError:
        raise InterruptedWaitError(f"interrupted; nothing was run in {view.name}") from None
    if view.state is not SessionState.READY:
        raise ConflictError(f"{view.name} was stopped before it was in root mode; nothing was run")


def _run(invocation: Invocation, name: str, before: Sequence[str], command: str) -> int:
    """Run ssh(1) and wait for its end, also after Ctrl-C; then InterruptedWaitError."""
    argv, connection = ssh_command(invocation, name, before=before, after=["--", command], root=True)
    process, signals = None, list[int]()
    try:
        with _on_signals(signals.append):  # until it has started, there is no process to end
            process = subprocess.Popen(argv)
        if signals:
            raise KeyboardInterrupt
        code = process.wait()
        if code in SUSPECT_CODES and not invocation.json:
            explain_end(invocation, connection)
        return code
    except OSError as error:
        raise cannot_run(error) from error
    except KeyboardInterrupt:
        if process is not None:
            process.terminate()
            process.wait()
        raise InterruptedWaitError("interrupted; the command's changes are discarded") from None


def _commit(invocation: Invocation, name: str) -> None:
    """Keep the changes in the session. Only a second Ctrl-C interrupts this, since the command succeeded."""
    try:
        with show_request_progress(invocation, name, "commit-root"):
            view = invocation.client.commit_root(name)
        _, operation = until_done(invocation, view)
    except InterruptedWaitError:
        operation = _insist(invocation, name)
    _say(invocation, operation.message or f"{name}: the command's changes outside the home are kept")
    if operation.undo:
        _say(invocation, f"to undo: {operation.undo}")


def _insist(invocation: Invocation, name: str) -> OperationView:
    """Continue to wait for the commit, until a second Ctrl-C."""
    try:
        _say(invocation, f"{name}: the command's changes are being saved; press Ctrl-C again to interrupt")
        view = invocation.client.session(name)
        if view.operation is not None and view.operation.verb == "commit-root":
            return until_done(invocation, view)[1]
    except (KeyboardInterrupt, InterruptedWaitError):
        raise InterruptedWaitError(
            "interrupted while the command's changes were being saved",
            hint=f"`berth events {name}` shows whether they were saved",
        ) from None
    raise InterruptedWaitError("interrupted; the command's changes are discarded")


def _bring_back(invocation: Invocation, name: str, *, had_job: bool) -> None:
    try:
        _leave_root_mode(invocation, name, had_job=had_job)
    except OSError:  # the terminal is closed; the session must still leave root mode
        _discard_output()
        _leave_root_mode(invocation, name, had_job=had_job)


def _leave_root_mode(invocation: Invocation, name: str, *, had_job: bool) -> None:
    """Stop the session, and start it again in normal mode if it had a job."""
    client = invocation.client
    try:
        view = client.session(name)
        restarted = _try_restart(invocation, view) if had_job else None
        if restarted is not None:
            view = restarted
        elif _in_root_mode(view):
            view = until_ended(invocation, client.stop(name))
        if had_job and view.state in ENDED:
            view = client.start(name, StartRequest())
        if had_job:
            until_ready(invocation, view)
    except InterruptedWaitError:
        raise
    except KeyboardInterrupt:
        raise InterruptedWaitError(
            f"interrupted; {name} may still be in root mode", hint=f"`berth stop {name}` ends root mode"
        ) from None
    except BerthError as error:
        raise type(error)(
            f"{name} could not leave root mode: {error.message}",
            hint=f"`berth stop {name}` ends root mode, `berth start {name}` starts it in normal mode",
        ) from error
    _say(invocation, f"{name} is {'ready again' if had_job else 'stopped again'}")


def _try_restart(invocation: Invocation, view: SessionView) -> SessionView | None:
    """Restart a session that is ready in root mode; None if it is not, or if a restart is refused."""
    if not view.root or view.state is not SessionState.READY:
        return None
    try:
        return invocation.client.restart(view.name)
    except BerthError:  # as if the disk is full: the session must leave root mode all the same
        return None


def _why_not_kept(code: int) -> str:
    if code == SSH_FAILED:
        return "the connection was lost, or the command ended with 255"
    return f"the command ended with {code}"


def _discard_output() -> None:
    """Redirect all further output to /dev/null, because the terminal or pipe is closed."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    os.close(null)


def _say(invocation: Invocation, text: str) -> None:
    if not invocation.json:
        print_note(text)


def _interrupt(_signal: int) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _on_signals(call: Callable[[int], None]) -> Iterator[None]:
    """Call `call` with the signal's number on SIGINT, SIGHUP and SIGTERM."""
    before = {number: signal.signal(number, lambda number, _frame: call(number)) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
