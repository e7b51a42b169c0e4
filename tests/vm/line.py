"""A connection that stays: `cat` in a session, which answers each line with itself."""

from __future__ import annotations

import selectors
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.vm.person import SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.person import Person


class Line:
    """One such connection."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._sent = 0

    def answers(self, seconds: float = SECONDS) -> None:
        """Return when a new line came back; AssertionError if the connection ends, or after `seconds`."""
        self._sent += 1
        wanted = f"line {self._sent}\n".encode()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(wanted)
        self._process.stdin.flush()
        deadline = time.monotonic() + seconds
        got = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while got != wanted:
                assert selector.select(deadline - time.monotonic()), f"no answer within {seconds:g} s, only {got!r}"
                part = self._process.stdout.read1(len(wanted) - len(got))  # type: ignore[attr-defined]
                assert part, "the connection has ended"
                got += part


@contextmanager
def line(person: Person, session: str) -> Iterator[Line]:
    """Hold a connection from the laptop to the session, through the gateway, during the block."""
    argv = person.laptop.argv(session, ["cat"])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            made = Line(process)
            made.answers()
            yield made
        finally:
            process.kill()
