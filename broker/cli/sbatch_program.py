"""Find the site's own sbatch, also if a script of that name on PATH runs `berth sbatch`.

Such a script would call itself without end. So a script called sbatch is run with a variable that lists it. If
`berth sbatch` is called again with that variable, it skips the listed scripts. A binary is run without the variable, so
jobs do not inherit it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from broker.errors import BerthError
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

VARIABLE = "BERTH_SBATCH_SCRIPTS"
"""The id of the job in which `berth sbatch` was called (empty outside jobs) and the scripts that it ran, separated by
`:`."""
SUBMITTED = b"Submitted batch job "
SCRIPT_MAGIC = b"#!"
"""A script's first bytes: execve(2)."""


@dataclass(frozen=True, slots=True)
class SbatchProgram:
    """The path of an sbatch and the environment to run it with."""

    path: str
    environment: dict[str, str]

    @classmethod
    def find(cls, variables: Mapping[str, str]) -> SbatchProgram:
        """Find the first sbatch on PATH that has not called `berth sbatch`. BerthError if there is none."""
        called = _scripts(variables)
        environment = {name: value for name, value in variables.items() if name != VARIABLE}
        for path in _on_path(variables):
            if path in called:
                continue
            if _is_script(path):
                environment[VARIABLE] = ":".join([_job(variables), *called, path])
            return cls(path, environment)
        if called:
            raise BerthError(
                f"{', '.join(called)} runs `berth sbatch` again, and there is no other sbatch on PATH",
                hint="add the directory of Slurm's sbatch to PATH, after the script's directory",
            )
        raise BerthError("cannot run sbatch: not found", hint="load Slurm's commands, or use a login node")

    def become(self, words: Sequence[str]) -> NoReturn:
        """Replace this process by sbatch. BerthError if that fails."""
        try:
            os.execve(self.path, ["sbatch", *words], self.environment)  # noqa: S606 - without a shell
        except OSError as error:
            raise _cannot_run(error) from error

    def run(
        self, words: Sequence[str], stdin: bytes | None, *, write: Callable[[bytes], None], note: Callable[[int], None]
    ) -> tuple[int, int | None]:
        """Run sbatch; return its exit code, and the job's id if it prints one.

        `write` gets its output as it comes, and `note` the id at once. BerthError if it cannot be run.
        """
        try:
            process = subprocess.Popen(
                ["sbatch", *words],
                executable=self.path,
                env=self.environment,
                stdin=None if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:
            raise _cannot_run(error) from error
        assert process.stdout is not None
        printed, job_id = b"", None
        with process:
            if stdin is not None:
                assert process.stdin is not None
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(stdin)
                process.stdin.close()
            while part := os.read(process.stdout.fileno(), 65536):
                printed += part
                write(part)
                if job_id is None and (job_id := _job_id(printed)) is not None:
                    note(job_id)
        return process.returncode, job_id


def _job_id(printed: bytes) -> int | None:
    """Return the id in `Submitted batch job 42 on cluster x`, or with --parsable in `42;x`."""
    lines = printed.rpartition(b"\n")[0].splitlines()
    word = lines[-1].removeprefix(SUBMITTED).split(b";")[0].split(b" ")[0] if lines else b""
    return int(word) if word.isdigit() else None


def _cannot_run(error: OSError) -> BerthError:
    return BerthError(f"cannot run sbatch: {error.strerror}", hint="load Slurm's commands, or use a login node")


def is_called_by_sbatch_script(variables: Mapping[str, str]) -> bool:
    """Whether a script named sbatch, which `berth sbatch` ran, called `berth sbatch` again."""
    return bool(_scripts(variables))


def _scripts(variables: Mapping[str, str]) -> list[str]:
    job, *scripts = variables.get(VARIABLE, "").split(":")
    return scripts if job == _job(variables) else []


def _job(variables: Mapping[str, str]) -> str:
    return variables.get("SLURM_JOB_ID", "")


def _on_path(variables: Mapping[str, str]) -> Iterator[str]:
    for directory in variables.get("PATH", os.defpath).split(":"):
        path = Path(directory or ".") / "sbatch"
        if is_file(path) and os.access(path, os.X_OK):
            yield os.path.realpath(path)


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - two bytes of it
            return file.read(len(SCRIPT_MAGIC)) == SCRIPT_MAGIC
    except OSError:
        return False  # a program that can be executed but not read
