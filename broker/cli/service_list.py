"""Ask a running session for its services, over ssh."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import signal
import subprocess
import threading
from typing import TYPE_CHECKING

from broker.cli import output
from broker.errors import BerthError, ConflictError, NotFoundError, RefusedError
from broker.schema.states import SessionState

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.service_catalogue import ListedService, ServiceCatalogue

LIST_LIMIT_S = 60
"""Seconds for the session's answer, with the connection."""
_REFUSED = 1
"""The exit code of the program for a refusal, whose reason it writes."""
_SSH_FAILED = 255
"""The exit code of ssh(1) for its own failures, which it has explained."""


def ask_for_services(invocation: Invocation, name: str) -> ServiceCatalogue:
    """Return the services of a session; start a stopped one. Faults of the user's files are printed.

    RefusedError if the session's job was submitted by a release without services; BerthError without an answer.
    """
    from broker.service_catalogue import parse_catalogue

    answer = run_service_program(invocation, name, "list")
    try:
        catalogue = parse_catalogue(answer)
    except ValueError as error:
        raise BerthError(
            f"{name} gave no list of services: {error}",
            hint=f"`berth ssh {name}` shows whether its login works; `berth restart {name}` starts the session again",
        ) from error
    for problem in catalogue.problems:
        output.print_note(f"ignored: {problem}")
    return catalogue


def require_ready(invocation: Invocation, name: str) -> None:
    """Return if the session is ready; ConflictError with its state otherwise. No session is started for a list."""
    view = invocation.client.session(name)
    if view.state is not SessionState.READY:
        raise ConflictError(
            f"{name} is {view.state}, and its services are listed only while it is ready",
            hint=f"`berth start {name}` starts it; `berth explain {name}` says what it waits for",
        )


def run_service_program(invocation: Invocation, name: str, *words: str) -> bytes:
    """Run the program inside the session to its end, and return its output. Errors as `check_end` raises them."""
    from broker.cli.ssh_process import find_ssh, ssh_command
    from broker.service_catalogue import MAX_ANSWER_BYTES, remote_command

    find_ssh()
    argv, _ = ssh_command(invocation, name, before=["-T"], after=["--", remote_command(*words)])
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        limit = threading.Timer(LIST_LIMIT_S, process.kill)
        limit.start()
        try:
            answer = process.stdout.read(MAX_ANSWER_BYTES)
        finally:
            process.stdout.close()
            code = process.wait()
            limit.cancel()
    if code == _REFUSED and (reason := _find_refusal(answer)):
        raise BerthError(f"{name}: {reason}", hint=f"`berth services {name}` lists its services")
    check_end(name, code)
    return answer


def _find_refusal(answer: bytes) -> str | None:
    """Return the reason of the line `refused REASON`, after what a login's own files have written."""
    reasons = [
        line.partition(" ")[2] for line in answer.decode(errors="replace").splitlines() if line.startswith("refused ")
    ]
    return reasons[-1] if reasons else None


def find_service(name: str, service: str, services: dict[str, ListedService]) -> ListedService:
    """Return the service of that name; NotFoundError with the names of those that the session has."""
    if service not in services:
        known = f"its services: {', '.join(services)}" if services else "its profile declares none"
        raise NotFoundError(f"{name} has no service {service}", hint=f"{known}; `berth services {name}` lists them")
    return services[service]


def start_refused(name: str, service: str, why: str) -> BerthError:
    """Return the error for a service that the program inside the session refuses to start."""
    return BerthError(
        f"{name} cannot start {service}: {why}",
        hint=f"`berth services {name}` lists its services; tell the owner of the profile if its image lacks a program",
    )


def check_end(name: str, code: int) -> None:
    """Return if the program inside the session ended well. Raises what its exit code, or ssh's, means."""
    from broker.service_catalogue import NO_PROGRAM_CODE

    if code == NO_PROGRAM_CODE:
        raise RefusedError(
            f"{name} was started before this site had services",
            hint=f"`berth stop {name}` and `berth start {name}` make its services available; its files are kept",
        )
    if code == _SSH_FAILED:
        raise BerthError(f"the connection to {name} has ended", hint=f"`berth explain {name}` shows the state")
    if code == -signal.SIGKILL:
        raise BerthError(f"{name} did not answer within {LIST_LIMIT_S} s", hint=f"`berth ssh {name}` may show why")
    if code != 0:
        raise BerthError(
            f"the program for services in {name} ended with code {code}",
            hint=f"`berth ssh {name}` shows whether its login works",
        )
