"""Progress on standard error: one line for each step, with the seconds since the start."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from slurm.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_PAUSE_S = 0.25


class ProgressLog:
    """Prints `[ 12.3 s] what`; several threads may share one."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._start = time.monotonic()
        self._quiet = quiet

    def say(self, what: str) -> None:
        if not self._quiet:
            sys.stderr.write(f"[{time.monotonic() - self._start:6.1f} s] {what}\n")
            sys.stderr.flush()


def wait_until(
    condition: Callable[[], bool],
    *,
    seconds: float,
    what: str,
    log: Path | None = None,
    hint: str = "",
    every: float = 0.03,
) -> None:
    """Return once `condition()` holds. It is called every `every` seconds, and less often after a while.

    After `seconds` raise LabError with `what` and `log`.
    """
    began_at = time.monotonic()
    while not condition():
        if time.monotonic() > began_at + seconds:
            raise LabError(f"{what}: not within {seconds:g} s", log=log, hint=hint)
        time.sleep(pause_s(began_at, shortest_s=every))


def pause_s(began_at: float, *, shortest_s: float = 0.02) -> float:
    """Return how long to wait before the next look, for who has looked since `began_at` on time.monotonic().

    It is a fifth of the time so far, at most MAX_PAUSE_S: a look in a node starts six programs, and who waits long for
    something would keep a core busy with looks.
    """
    return max(shortest_s, min((time.monotonic() - began_at) / 5, MAX_PAUSE_S))
