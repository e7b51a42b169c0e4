"""A site with one user, for `berth tui` as a process: a configuration, and the process of a scripted controller."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[2]
TERMINAL = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LC_CTYPE": "C.UTF-8"}
"""The terminal of tests and measurements: signs and colours do not depend on the one in which they run."""


_TUI = ("broker.cli", "tui")


class TuiSite:
    """A directory with the configuration and the controller's socket. The controller is started by the caller."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "run" / "api.sock"
        self.socket.parent.mkdir()
        config = directory / "config.yaml"
        config.write_text(f"mode: site\nruntime_dir: {self.socket.parent}\n")
        self.environment = TERMINAL | {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "BERTH_CONFIG": str(config),
            "PYTHONPATH": str(ROOT),
        }
        self._server: subprocess.Popen[str] | None = None

    def start_controller(self, sessions: int = 30) -> None:
        """Start the process; it answers on return."""
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.watch_server", self.socket, str(sessions)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n"

    def change(self, name: str, state: str) -> None:
        """Change a session's state at the controller."""
        assert self._server is not None
        assert self._server.stdin is not None
        self._server.stdin.write(f"{name} {state}\n")
        self._server.stdin.flush()

    def changes_requested(self) -> list[str]:
        """Return method and path of the requests that the controller got to change something, without checks."""
        file = self.socket.with_name("requests")
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if not line.endswith("/check")]

    def signal_controller(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.send_signal(number)

    def kill_controller(self) -> None:
        if self._server is not None:
            self._server.kill()
            with self._server:
                self._server = None

    def open(
        self, *arguments: str, columns: int = 80, lines: int = 24, variables: Mapping[str, str | None] | None = None
    ) -> PseudoTerminal:
        """Start `berth tui` in a terminal of this size, with these variables of the environment; None unsets one."""
        return self.run([*_TUI, *arguments], columns=columns, lines=lines, variables=variables)

    def command(self) -> list[str]:
        """Return the command line of `berth tui`; it needs the variables of `environment`."""
        return [sys.executable, "-m", *_TUI]

    def run(
        self,
        module: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        variables: Mapping[str, str | None] | None = None,
    ) -> PseudoTerminal:
        """Start a module of Python with its arguments in a terminal of this size."""
        command = [sys.executable, "-m", *module]
        wanted = {**self.environment, **(variables or {})}
        environment = {name: value for name, value in wanted.items() if value is not None}
        return PseudoTerminal(command, environment, columns=columns, lines=lines)


@contextlib.contextmanager
def tui_site(directory: Path) -> Iterator[TuiSite]:
    """Provide a site in an empty directory; the controller's process has ended afterwards."""
    site = TuiSite(directory)
    try:
        yield site
    finally:
        site.kill_controller()
