"""Run a program in a pseudo terminal, and see what a user sees: the cells of an emulated screen."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from typing import TYPE_CHECKING, Any, Self

import pyte

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

MODES = {"alternate screen": "1049", "mouse": "1000", "mouse motion": "1003", "paste": "2004", "focus": "1004"}
"""Private modes of xterm that an interface sets (ctlseqs, DECSET)."""


class PseudoTerminal:
    """A program whose controlling terminal this is. Its screen is emulated as UTF-8."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 80, lines: int = 24
    ) -> None:
        self.output = bytearray()
        """Everything that the program has sent."""
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.status: int | None = None
        """The exit status as waitpid(2) returns it, when the program has ended."""
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], list(command), dict(environment))  # noqa: S606 - the tested program
        self.resize(columns, lines)
        self.settings = termios.tcgetattr(self.descriptor)
        """The terminal's settings before the program changes them."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def read(self, seconds: float = 0.0) -> int:
        """Read what the program sends within this time, at least what is there already; return the number of bytes."""
        count = 0
        deadline = time.monotonic() + seconds
        while select.select([self.descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            try:
                content = os.read(self.descriptor, 65536)
            except OSError:  # the program has closed the terminal (EIO)
                break
            if not content:
                break
            count += len(content)
            self.output += content
            with contextlib.suppress(Exception):  # pyte knows fewer sequences than terminals
                self._stream.feed(content)
        return count

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait_for(self, condition: Callable[[str], Any], *, deadline_s: float = DEADLINE_S) -> str:
        """Return the text of the screen when the condition is true of it."""
        deadline = time.monotonic() + deadline_s
        while not condition(self.text()):
            assert time.monotonic() < deadline, f"not shown:\n{self.text()}"
            select.select([self.descriptor], [], [], 0.05)
            self.read()
            self._poll()
        return self.text()

    def wait_for_text(self, expected: str) -> str:
        return self.wait_for(lambda text: expected in text)

    def wait_for_end(self) -> int:
        """Return the exit code, or the negative number of the signal that ended the program."""
        deadline = time.monotonic() + DEADLINE_S
        while self.status is None:
            assert time.monotonic() < deadline, f"has not ended:\n{self.text()}"
            self.read(0.02)
            self._poll()
        self.read()
        return os.waitstatus_to_exitcode(self.status)

    def _poll(self) -> None:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None

    def modes_left_on(self) -> list[str]:
        """Return the modes that the program has set, and not reset."""
        return [name for name, mode in MODES.items() if self._last(f"\x1b[?{mode}h") > self._last(f"\x1b[?{mode}l")]

    def is_cursor_shown(self) -> bool:
        return self._last("\x1b[?25h") >= self._last("\x1b[?25l")

    def _last(self, sequence: str) -> int:
        return self.output.rfind(sequence.encode())

    def has_settings_of_before(self) -> bool:
        return termios.tcgetattr(self.descriptor) == self.settings
