"""Run a program until it ends, with a time limit and an error that has the end of its output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING

from slurm.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MAX_TAIL_CHARACTERS = 1500
"""Limit for the output in an error."""


def run_tool(
    argv: Sequence[str],
    *,
    seconds: float = 60,
    log: Path | None = None,
    hint: str = "",
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    check: bool = True,
) -> str:
    """Run `argv` and return its standard output.

    With `log`, all output is appended there instead and "" is returned. A missing program, no end within `seconds` and,
    with `check`, an exit code other than 0 raise LabError. The process group is killed if this ends while the program
    runs, also by an interruption.
    """
    with contextlib.ExitStack() as stack:
        sink = subprocess.PIPE if log is None else stack.enter_context(log.open("a"))
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=sink, stderr=sink, env=env, text=True, errors="replace",
                start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise LabError(f"{argv[0]} is not installed", hint=hint) from error
        try:
            out, err = process.communicate(stdin, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{argv[0]} did not end within {seconds:g} s", log=log, hint=hint) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
    if check and process.returncode != 0:
        said = "" if log else (err.strip() or out.strip())[-MAX_TAIL_CHARACTERS:]
        raise LabError(f"{' '.join(argv[:6])} ended with {process.returncode}: {said}".rstrip(": "), log=log, hint=hint)
    return out or ""
