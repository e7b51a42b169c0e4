"""`berth exec --root`: start a session in root mode for one command, keep its changes, and leave root mode.

Whatever happens between (a command that fails, a lost connection, Ctrl-C, a closed terminal), the session is brought
back to what it was: started again if it had a job, else stopped. Only a kill that nobody can catch leaves it in root
mode; `berth show` then says how to end that.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, NoReturn

from broker.cli.errors import InterruptedWaitError
from broker.cli.output import print_note
from broker.cli.prompts import announce_restart
from broker.cli.session_text import ENDED, has_job
from broker.cli.ssh_process import cannot_run, ssh_command
from broker.cli.wait import asking, until_done, until_ended, until_ready
from broker.errors import BerthError, ConflictError
from broker.schema.sessions import SessionState, StartRequest
from broker.status_text import pending_operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker.cli.context import Invocation
    from broker.schema.sessions import OperationView, SessionView

LOST = 255
"""What ssh(1) ends with when it failed itself; a command may do so too, and is then taken for lost."""

_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def run_as_root(
    invocation: Invocation, name: str, before: Sequence[str], command: str, *, keep: bool, yes: bool
) -> int:
    """Run `command`, quoted for a shell, as root in the session; return its exit code.

    What it changed outside the home is kept if that is 0 or `keep` is set, and ssh did not fail. `before` goes to
    ssh(1) before the command.
    """
    view = invocation.client.session(name)
    _check_free(view)
    announce_restart(
        invocation,
        view,
        "it is started in root mode for this command",
        undone=f"nothing was run in {name}",
        yes=yes,
    )
    view = invocation.client.session(name)  # the question may have stood for long
    _check_free(view)
    with _on_signals(_interrupt), _root_mode(invocation, name, had_job=has_job(view)):
        code = _run(invocation, name, before, command)
        if code == 0 or (keep and code != LOST):
            _commit(invocation, name)
        else:
            _say(invocation, f"{_why_not_kept(code)}; nothing of it is kept")
    return code


def _check_free(view: SessionView) -> None:
    """ConflictError while another `berth exec --root` has the session, or has left it in root mode."""
    if _in_root_mode(view):
        raise ConflictError(
            f"{view.name} is in root mode already, for another command",
            hint=f"wait for that one; if it is gone, `berth stop {view.name}` ends root mode",
        )


def _in_root_mode(view: SessionView) -> bool:
    """Whether it is, or is on its way there."""
    operation = pending_operation(view)
    return view.root or (operation is not None and operation.verb == "root")


@contextlib.contextmanager
def _root_mode(invocation: Invocation, name: str, *, had_job: bool) -> Iterator[None]:
    """The session in root mode, ready. Refused, it is left alone: it may be in root mode for somebody else."""
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
        with asking(invocation, name, "root"):
            return invocation.client.root(name)
    except InterruptedWaitError:
        raise InterruptedWaitError(f"interrupted; nothing was run in {name}") from None


def _until_in_root_mode(invocation: Invocation, view: SessionView) -> None:
    try:
        view, _ = until_done(invocation, view, ready=True)
    except InterruptedWaitError:
        raise InterruptedWaitError(f"interrupted; nothing was run in {view.name}") from None
    if view.state is not SessionState.READY:
        raise ConflictError(f"{view.name} was stopped on its way into root mode; nothing was run")


def _run(invocation: Invocation, name: str, before: Sequence[str], command: str) -> int:
    """Run the real ssh and wait for it; InterruptedWaitError only after it has ended."""
    argv = ssh_command(invocation, name, before=before, after=["--", command], root=True)
    process, heard = None, list[int]()
    try:
        with _on_signals(heard.append):  # while it starts there is nobody yet whom we could end
            process = subprocess.Popen(argv)
        if heard:
            raise KeyboardInterrupt
        return process.wait()
    except OSError as error:
        raise cannot_run(error) from error
    except KeyboardInterrupt:
        if process is not None:
            process.terminate()
            process.wait()
        raise InterruptedWaitError("interrupted; nothing of what the command did is kept") from None


def _commit(invocation: Invocation, name: str) -> None:
    """Make what root changed part of the session. Only the second Ctrl-C ends that: the command did what it should."""
    try:
        with asking(invocation, name, "commit-root"):
            view = invocation.client.commit_root(name)
        _, operation = until_done(invocation, view)
    except InterruptedWaitError:
        operation = _insist(invocation, name)
    _say(invocation, operation.message or f"{name}: what the command changed outside the home is part of it now")
    if operation.undo:
        _say(invocation, f"to undo: {operation.undo}")


def _insist(invocation: Invocation, name: str) -> OperationView:
    """Wait on for the commit, until Ctrl-C is pressed once more."""
    try:
        _say(invocation, f"{name}: what the command changed is being kept; Ctrl-C again ends that")
        view = invocation.client.session(name)
        if view.operation is not None and view.operation.verb == "commit-root":
            return until_done(invocation, view)[1]
    except (KeyboardInterrupt, InterruptedWaitError):
        raise InterruptedWaitError(
            "interrupted while what the command changed was being kept",
            hint=f"`berth events {name}` says whether it was",
        ) from None
    raise InterruptedWaitError("interrupted; nothing of what the command did is kept")


def _bring_back(invocation: Invocation, name: str, *, had_job: bool) -> None:
    try:
        _leave_root_mode(invocation, name, had_job=had_job)
    except OSError:  # nobody reads what we say any more, but the session is to come back all the same
        _fall_silent()
        _leave_root_mode(invocation, name, had_job=had_job)


def _leave_root_mode(invocation: Invocation, name: str, *, had_job: bool) -> None:
    """Stop the session, and start it again if it had a job: its next start is an ordinary one."""
    client = invocation.client
    try:
        view = client.session(name)
        if _in_root_mode(view):
            view = until_ended(invocation, client.stop(name))
        if had_job and view.state in ENDED:
            view = client.start(name, StartRequest())
        if had_job:
            until_ready(invocation, view)
    except InterruptedWaitError:
        raise
    except BerthError as error:
        raise type(error)(
            f"{name} could not be brought back from root mode: {error.message}",
            hint=f"`berth stop {name}` ends root mode, `berth start {name}` starts it as usual",
        ) from error
    _say(invocation, f"{name} is {'ready again' if had_job else 'stopped again'}")


def _why_not_kept(code: int) -> str:
    if code == LOST:
        return "the connection was lost, or the command ended with 255"
    return f"the command ended with {code}"


def _fall_silent() -> None:
    """Let what we write from now on go nowhere, instead of failing on a closed terminal or pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _say(invocation: Invocation, text: str) -> None:
    if not invocation.json:
        print_note(text)


def _interrupt(_signal: int) -> NoReturn:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _on_signals(call: Callable[[int], None]) -> Iterator[None]:
    """Let Ctrl-C, a closed terminal and a polite kill all `call` this with their number."""
    before = {each: signal.signal(each, lambda number, _frame: call(number)) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
