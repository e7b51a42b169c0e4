"""Read the files in which batch jobs report from their nodes: docs/reference/batch-job.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.names import IDENTIFIER
from profiles.userfile import read_text

if TYPE_CHECKING:
    from pathlib import Path

JOB_KEY = re.compile(r"[1-9][0-9]{0,9}(_[0-9]{1,9})?(@[A-Za-z0-9.-]{1,255})?")
"""As schema.environments.JobKey. With `@NODE.STEP`: the note of a step on another node than the script's."""
MAX_FILE_BYTES = 64 * 1024
"""Limit for a file that is read; the nodes write less than 10,000 bytes."""
MAX_JOBS = 10_000
"""Jobs of one environment that are read."""


@dataclass(frozen=True, slots=True)
class JobNote:
    """The note of a job that has begun in an environment."""

    key: str
    top: str
    """The layer that the job writes to."""
    node: str
    work: str
    inside: str


def read_job_notes(directory: Path) -> list[JobNote]:
    """Return the notes of the jobs that have begun in an environment, except for incomplete ones; none in a session."""
    folder = directory / "run/jobs"
    names = sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []
    return [job for name in names[:MAX_JOBS] if JOB_KEY.fullmatch(name) and (job := _read(folder / name)) is not None]


def read_user_file(file: Path) -> str:
    """Return the text of a user's file. OSError if it cannot be read."""
    return read_text(file, MAX_FILE_BYTES)


def _read(file: Path) -> JobNote | None:
    values = dict(line.split("=", 1) for line in read_user_file(file).split("\n") if "=" in line)
    if not IDENTIFIER.fullmatch(values.get("TOP", "")):
        return None
    return JobNote(file.name, values["TOP"], values.get("NODE", ""), values.get("WORK", ""), values.get("INSIDE", ""))
