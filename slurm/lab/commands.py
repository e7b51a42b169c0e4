"""Run a program to its end, with a time limit and an error that says what it printed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from slurm.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TAIL = 1500
"""Characters of output that an error carries."""


def run(
    argv: Sequence[str],
    *,
    seconds: float = 60,
    log: Path | None = None,
    hint: str = "",
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> str:
    """Run `argv` and return its standard output.

    With `log`, everything it prints is appended there instead and "" is returned. A non-zero exit code, a missing
    program or no end within `seconds` raises LabError.
    """
    try:
        if log is None:
            done = subprocess.run(
                argv, capture_output=True, text=True, errors="replace", timeout=seconds, env=env, input=stdin,
                check=False,
            )  # fmt: skip
        else:
            with log.open("a") as sink:
                done = subprocess.run(
                    argv, stdout=sink, stderr=sink, text=True, timeout=seconds, env=env, input=stdin, check=False
                )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed", hint=hint) from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{argv[0]} did not end within {seconds:g} s", log=log, hint=hint) from error
    if done.returncode != 0:
        said = "" if log else (done.stderr.strip() or done.stdout.strip())[-TAIL:]
        raise LabError(f"{' '.join(argv[:6])} ended with {done.returncode}: {said}".rstrip(": "), log=log, hint=hint)
    return "" if log else done.stdout
