"""Read the files in which batch jobs report from their nodes: docs/reference/batch-job.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.names import IDENTIFIER
from profiles.userfile import read_text

if TYPE_CHECKING:
    from pathlib import Path

KEY = re.compile(r"[1-9][0-9]{0,9}(_[0-9]{1,9})?(@[A-Za-z0-9.-]{1,255})?")
"""As batch_schema.JobKey; with `@NODE.STEP` what a step wrote on another node than the script."""
LARGEST_FILE = 64 * 1024
"""Bytes of a file that is read; what the nodes write has less than 10,000."""
MOST = 10_000
"""Jobs of one environment that are looked at."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A job that has begun in an environment."""

    key: str
    top: str
    """The layer that it writes to."""
    node: str
    work: str
    inside: str


def begun(directory: Path) -> list[Begun]:
    """The jobs that have begun in an environment; none in a session. One whose file is not whole yet is left out."""
    place = directory / "run/jobs"
    names = sorted(each.name for each in place.iterdir()) if place.is_dir() else []
    return [job for name in names[:MOST] if KEY.fullmatch(name) and (job := _read(place / name)) is not None]


def text(file: Path) -> str:
    """Return a file of the user's; OSError if it is none that can be read."""
    return read_text(file, LARGEST_FILE)


def _read(file: Path) -> Begun | None:
    values = dict(line.split("=", 1) for line in text(file).split("\n") if "=" in line)
    if not IDENTIFIER.fullmatch(values.get("TOP", "")):
        return None
    return Begun(file.name, values["TOP"], values.get("NODE", ""), values.get("WORK", ""), values.get("INSIDE", ""))
