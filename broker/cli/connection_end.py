"""Explain why the session of `berth ssh` or `berth exec` ended, if its end has ended the connection.

`python -m broker.cli.connection_end` runs after ssh(1), and keeps its exit code.
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NoReturn

from broker.cli import output
from broker.cli.progress import ProgressLine
from broker.errors import BerthError, NotFoundError
from broker.schema.states import SessionState
from broker.text import advice
from broker.text.job import describe_outcome
from broker.text.session import ENDED
from broker.text.status import describe_state

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.client.client import Client
    from broker.schema.sessions import SessionView

NOTICE_S = 3.0
"""Time in which a session ends after a kill for memory: its job looks every 2 s (MEMORY_CHECK_S in container.sh)."""

REASON_S = 45.0
"""Time for Slurm to report the end of a job: its processes end, and the node's epilog runs."""

_LOOK_S = 0.5
"""Time between two looks at the session."""

_PROBE_S = 2.0
"""Time for a session's sshd to say that it is one."""

_MEMORY_OPTIONS = ("--mem", "--mem-per-cpu", "--mem-per-gpu")


@dataclass(frozen=True, slots=True)
class SshConnection:
    """The run of a session to which ssh connects, and the address of its sshd."""

    name: str
    generation: str
    host: str
    port: int


def explain_command(connection: SshConnection) -> list[str]:
    """Return the command that explains the end of `connection`, without its last argument: the exit code of ssh."""
    return [sys.executable, "-P", "-m", "broker.cli.connection_end", json.dumps(asdict(connection))]


def explain_end(invocation: Invocation, connection: SshConnection) -> None:
    """Print why the session's run has ended, and the next command. Print nothing if it continues.

    Returns when Slurm has reported the reason, and after NOTICE_S if the session's sshd still answers. Raises
    KeyboardInterrupt.
    """
    try:
        with ProgressLine() as progress:
            end = _await_end(invocation.client, connection, progress)
    except NotFoundError:
        end = f"{connection.name} was deleted", "`berth list` shows your sessions"
    except BerthError as error:
        if _answers(connection):
            return
        end = (
            f"{connection.name} no longer answers on {connection.host}; the reason is not known: {error.message}",
            (f"`berth explain {connection.name}` shows it when the controller answers"),
        )
    if end is not None:
        output.print_note(f"berth: {end[0]}")
        output.print_note(f"  hint: {end[1]}")


def _await_end(client: Client, connection: SshConnection, progress: ProgressLine) -> tuple[str, str] | None:
    """Return what happened and the next command, when they are known; None if the session continues."""
    name = connection.name
    began = time.monotonic()
    view = client.session(name, refresh=True)
    while not _is_over(view, connection):
        passed = time.monotonic() - began
        if passed > NOTICE_S and _answers(connection):
            return None
        if passed > REASON_S:
            return f"{name} does not answer on {connection.host}; Slurm reports that its job still runs", (
                f"`berth explain {name}` shows its state; `berth ssh {name}` tries again"
            )
        if passed > NOTICE_S:
            progress.show(f"{name} does not answer any more; waiting for the reason from Slurm")
        view = client.session(name, after=view.revision, wait=_LOOK_S)
    return _describe_end(client, view, connection)


def _is_over(view: SessionView, connection: SshConnection) -> bool:
    """Whether the run of the session to which the connection led has ended, or is being stopped."""
    return view.state is not SessionState.READY or view.generation != connection.generation


def _describe_end(client: Client, view: SessionView, connection: SshConnection) -> tuple[str, str]:
    now, name = time.time(), connection.name
    if view.state in ENDED:
        hint = f"{advice.next_step(view, now)}; `berth explain {name}` has more"
        if view.outcome == "OUT_OF_MEMORY":
            return f"{name} ran out of memory, and its job ended: {_memory_limit(view)}", hint
        what = "failed" if view.state is SessionState.FAILED else "was stopped"
        return f"{name} {what}{f': {view.reason}' if view.reason else ''}", hint
    if view.state in {SessionState.STOPPING, SessionState.CHANGING, SessionState.DELETING}:
        return f"{name} is {describe_state(view, now)}", f"`berth show {name}` shows its progress"
    because = _reason_of_job(client, connection)
    return f"{name} continues in another run{because}; it is {describe_state(view, now)}", (
        f"`berth ssh {name}` connects to it"
    )


def _memory_limit(view: SessionView) -> str:
    given = [option for option in view.options if option.partition("=")[0] in _MEMORY_OPTIONS]
    return f"its limit was {' '.join(given)}" if given else "its limit was the memory of the job, Slurm's default"


def _reason_of_job(client: Client, connection: SshConnection) -> str:
    """Return ` because…` for the job to which the connection led, if its reason is recorded; else an empty text."""
    submission = connection.generation.partition(".")[0]
    for job in client.jobs(connection.name):
        if str(job.submission) == submission and (job.reason or job.outcome):
            return f": {job.reason or describe_outcome(job.outcome)}"
        if str(job.submission) == submission and job.restarts:
            return f": Slurm has requeued job {job.job_id}"
    return ""


def _answers(connection: SshConnection) -> bool:
    """Whether an sshd answers where the session listened."""
    try:
        with socket.create_connection((connection.host, connection.port), _PROBE_S) as probe:
            return probe.recv(4) == b"SSH-"
    except OSError:
        return False


def main(arguments: list[str]) -> NoReturn:
    """Explain the end of the connection in `arguments[0]`, and end with the code `arguments[1]`."""
    from broker.cli.context import Invocation

    output.prepare_streams()
    described, code = arguments
    try:
        explain_end(Invocation(), SshConnection(**json.loads(described)))
    except KeyboardInterrupt:
        output.print_note("berth: interrupted; the reason of the end was not found")
    sys.exit(int(code))


if __name__ == "__main__":
    main(sys.argv[1:])
