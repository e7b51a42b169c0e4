"""Progress on standard error: one line for each step, with the seconds since the start."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from slurm.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
    """Return once `condition()` holds. It is called every `every` seconds.

    After `seconds` raise LabError with `what` and `log`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {seconds:g} s", log=log, hint=hint)
        time.sleep(every)
