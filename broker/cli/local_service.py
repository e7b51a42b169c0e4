"""Open a service of a session on this machine: start it, tunnel to its socket, and listen for the user's browser.

One ssh(1) carries the tunnel, and runs `service attach` in the session, which starts the service and reports its state.
With a session channel, sshd also sends small packets at once. When ssh ends, the listener ends.
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.progress import ProgressLine
from broker.cli.service_list import ask_for_services, check_end, find_service, start_refused
from broker.errors import BerthError
from broker.schema.service_report import ServiceReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.cli.context import Invocation
    from broker.client.local_listener import LocalListener
    from broker.service_catalogue import ListedService

MAX_SOCKET_CHARS = 90
"""A Unix socket's path has at most 107 bytes (unix(7)), and ssh adds 17 while it makes one."""
MAX_LINE_BYTES = 64 << 10
"""Limit for one line of the report."""


def open_local(invocation: Invocation, name: str, service: str, opened: Callable[[str, int], None]) -> None:
    """Start the service and serve it until it ends, or until Ctrl-C. `opened` gets its address and the port.

    NotFoundError if the session has no such service; BerthError if the service fails, with its last lines printed.
    """
    from broker.cli.connection_end import explain_end
    from broker.cli.ssh_process import ssh_command
    from broker.service_catalogue import remote_command

    listed = find_service(name, service, ask_for_services(invocation, name).services)
    with _private_directory() as directory:
        tunnel = Path(directory) / "tunnel.sock"
        options = ["-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=ERROR", "-L", f"{tunnel}:{listed.socket}"]
        command = remote_command("attach", service)
        argv, connection = ssh_command(invocation, name, before=["-T", *options], after=["--", command])
        attachment = _Attachment(name, listed, tunnel, opened, quiet=invocation.json)
        try:
            asyncio.run(attachment.run(argv))
        except KeyboardInterrupt:
            if not attachment.was_ready:
                raise
            output.print_note(f"closed; {listed.title} keeps running in {name}")
        except _ConnectionEndedError:
            explain_end(invocation, connection)
            raise BerthError(
                f"the connection to {name} has ended",
                hint=f"`berth open {name} {service} --local` opens {service} again",
            ) from None


class _ConnectionEndedError(Exception):
    """The tunnel has ended, and the service is open no more."""


def _private_directory() -> tempfile.TemporaryDirectory[str]:
    """Make a directory of mode 0700 whose path is short enough for a socket in it."""
    place = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    if not (Path(place).is_dir() and os.access(place, os.W_OK) and len(os.fsencode(place)) <= MAX_SOCKET_CHARS - 40):
        place = "/tmp"  # noqa: S108 - the directory in it has a random name and mode 0700
    return tempfile.TemporaryDirectory(prefix="berth-", dir=place)


class _Attachment:
    """One service that is open on this machine."""

    def __init__(
        self, name: str, listed: ListedService, tunnel: Path, opened: Callable[[str, int], None], *, quiet: bool
    ) -> None:
        self._name = name
        self._listed = listed
        self._tunnel = tunnel
        self._opened = opened
        self._quiet = quiet
        self.was_ready = False
        self._report = ServiceReport(listed.service.name, state="")

    async def run(self, argv: list[str]) -> None:
        """Serve until the service has ended. Raises BerthError if it failed, _ConnectionEndedError if ssh ended."""
        from broker.client.local_listener import LocalListener

        pipe = asyncio.subprocess.PIPE
        async with LocalListener(self._listed.service.name, self._tunnel) as listener:
            process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, limit=MAX_LINE_BYTES)
            try:
                await self._follow(process, listener)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()

    async def _follow(self, process: asyncio.subprocess.Process, listener: LocalListener) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self._listed.request.encode())
        title = self._listed.title
        with ProgressLine(f"starting {title}", quiet=self._quiet) as progress:
            while line := await self._read_line(process.stdout):
                self._report.read(line)
                if self._report.refusal:
                    raise start_refused(self._name, self._listed.service.name, self._report.refusal)
                if self._report.state == "ready" and not self.was_ready:
                    self.was_ready = True
                    progress.clear()
                    self._opened(listener.url, listener.port)
                elif self._report.state != "failed":
                    progress.show(self._describe())
        self._report_end(await process.wait())

    async def _read_line(self, report: asyncio.StreamReader) -> bytes:
        """Return the next line of the report, nothing at its end. Raises BerthError for a line above the limit."""
        try:
            return await report.readline()
        except ValueError as error:
            raise BerthError(
                f"{self._name} sent a line of more than {MAX_LINE_BYTES >> 10} KiB",
                hint=f"`berth ssh {self._name}` shows whether its login works",
            ) from error

    def _describe(self) -> str:
        """Describe the state in one line, with the service's last line while it starts."""
        title, report = self._listed.title, self._report
        match report.state:
            case "ready":
                return f"{title} is ready again"
            case "waiting":
                return f"{title} has ended; it starts again in {report.state_detail} s"
            case _:
                return f"starting {title}" + (f": {report.lines[-1]}" if report.lines else "")

    def _report_end(self, code: int) -> None:
        """Return if the service has ended by itself. Raises the error for every other end."""
        name, service = self._name, self._listed.service.name
        if self._report.state == "failed":
            for line in [] if self._quiet else self._report.lines:
                output.print_note(f"  {line}")
            what = "has failed again and again" if self.was_ready else "did not start"
            last = f": {self._report.lines[-1].removeprefix('berth: ')}" if self._report.lines else ""
            raise BerthError(
                f"{service} {what} in {name}{last}",
                hint=f"its command is in the profile or in ~/.config/berth/services.d of {name}; "
                f"`berth open {name} {service} --local` tries again",
            )
        if self._report.state == "stopped":
            output.print_note(f"{self._listed.title} has ended in {name}")
            return
        if not self.was_ready:
            check_end(name, code)
        raise _ConnectionEndedError
