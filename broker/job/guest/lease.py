"""The lease of a guest: how long the guest's program may run, and what it does for the session meanwhile.

It is one of the programs of broker/job/guest: Python's standard library alone, and Python 3.8 (`program.py`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LEASE_LOOK_S = 1.0
"""Seconds between two looks at the lease. It is opened each time: NFS keeps the attributes of an open file."""
LEASE_S = 60.0
"""Seconds after which a lease ends that the controller has not renewed."""
CLOCK_SKEW_S = 300.0
"""Seconds that a node's clock may differ from the controller's: as much as MUNGE allows."""
USE_INTERVAL_S = 60.0
"""Seconds between two marks that the session is in use."""
LEASE_BYTES = 65536


class GuestLease:
    """The permission of one guest in a role, in the file that the controller writes again and again."""

    def __init__(self, base: Path, role: str, user: str) -> None:
        """`base`: the folder of the session's files, /run/berth."""
        self._path = base / "session" / "guests"
        self._active = base / "node" / "active"
        self._line = f"{role} {user}"
        self._number = ""
        self._changed = -LEASE_S
        self._used = -USE_INTERVAL_S

    def problem(self) -> str:
        """Look at the lease. Return why it has ended; empty while it is valid."""
        try:
            with self._path.open(encoding="ascii") as file:
                head, *lines = file.read(LEASE_BYTES).splitlines() or [""]
        except (OSError, ValueError):
            return "the session's list of guests cannot be read"
        if self._line not in lines:
            return "your access has ended"
        now, number = time.monotonic(), head.partition(" ")[2]
        if number != self._number:
            if not self._number and not (number.isdigit() and abs(time.time() - int(number) / 1e9) < CLOCK_SKEW_S):
                return "Berth's controller does not answer; without it, no guest gets in"
            self._number, self._changed = number, now
        if now - self._changed >= LEASE_S:
            return "Berth's controller has not confirmed your access for a minute"
        return ""

    def mark_use(self) -> None:
        """Touch the file by which programs say that the session is in use, once in a while."""
        now = time.monotonic()
        if now - self._used >= USE_INTERVAL_S:
            self._used = now
            with contextlib.suppress(OSError):
                self._active.touch()


def session_title() -> str:
    """Return the session's name, as guests write it."""
    return f"{os.environ.get('BERTH_OWNER', '')}.{os.environ.get('BERTH_SESSION_NAME', '')}"


def require_terminal(may: str) -> None:
    """End the program unless the guest has logged in with a terminal and without a command."""
    if os.environ.get("SSH_ORIGINAL_COMMAND") is not None:
        sys.exit(f"berth: {may}, and run no command, copy no file there; log in without a command")
    if not (os.isatty(0) and os.isatty(1)):
        sys.exit(f"berth: {may}, for which ssh needs a terminal (ssh -t)")
