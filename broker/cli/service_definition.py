"""Hand a session the definition of a service of the user, which the session keeps while its job runs."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

from broker.cli.service_list import LIST_LIMIT_S, check_end, start_refused
from broker.errors import BerthError
from broker.schema.service_report import ServiceReport

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from broker.service_catalogue import ListedService

MAX_REPORT_BYTES = 64 << 10
"""Limit for the report until its first state."""


def define_service(invocation: Invocation, name: str, listed: ListedService) -> None:
    """Define a service of the user in a running session, and start it.

    From then on, berth-web can start it, which can read neither the user's files nor what the user publishes.
    """
    from broker.cli.ssh_process import ssh_command
    from broker.service_catalogue import remote_command

    command = remote_command("publish" if listed.published else "attach", listed.service.name)
    argv, _ = ssh_command(invocation, name, before=["-T", "-o", "LogLevel=ERROR"], after=["--", command])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        limit = threading.Timer(LIST_LIMIT_S, process.kill)
        limit.start()
        try:
            started = _read_state(process, name, listed)
            if started:
                process.terminate()
        finally:
            limit.cancel()
    if not started:
        check_end(name, process.returncode)
        raise BerthError(f"{name} did not start {listed.service.name}", hint=f"`berth services {name}` shows its state")


def _read_state(process: subprocess.Popen[bytes], name: str, listed: ListedService) -> bool:
    """Return whether the report has the service's state. Raises BerthError if the session refuses to start it."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(listed.request.encode())
    process.stdin.flush()
    left, report = MAX_REPORT_BYTES, ServiceReport(listed.service.name, state="")
    while line := process.stdout.readline(left):
        left -= len(line)
        report.read(line)
        if report.refusal:
            process.terminate()
            raise start_refused(name, listed.service.name, report.refusal)
        if report.state:
            return True
    return False
