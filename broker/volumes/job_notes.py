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
"""As batch_schema.JobKey; with `@NODE.STEP` what a step wrote on another node than the script."""
MAX_FILE_BYTES = 64 * 1024
"""Bytes of a file that is read; what the nodes write has less than 10,000."""
MAX_JOBS = 10_000
"""Jobs of one environment that are looked at."""


@dataclass(frozen=True, slots=True)
class JobNote:
    """A job that has begun in an environment."""

    key: str
    top: str
    """The layer that it writes to."""
    node: str
    work: str
    inside: str


def read_job_notes(directory: Path) -> list[JobNote]:
    """The jobs that have begun in an environment; none in a session. One whose file is not whole yet is left out."""
    place = directory / "run/jobs"
    names = sorted(each.name for each in place.iterdir()) if place.is_dir() else []
    return [job for name in names[:MAX_JOBS] if JOB_KEY.fullmatch(name) and (job := _read(place / name)) is not None]


def read_user_file(file: Path) -> str:
    """Return a file of the user's; OSError if it is none that can be read."""
    return read_text(file, MAX_FILE_BYTES)


def _read(file: Path) -> JobNote | None:
    values = dict(line.split("=", 1) for line in read_user_file(file).split("\n") if "=" in line)
    if not IDENTIFIER.fullmatch(values.get("TOP", "")):
        return None
    return JobNote(file.name, values["TOP"], values.get("NODE", ""), values.get("WORK", ""), values.get("INSIDE", ""))
