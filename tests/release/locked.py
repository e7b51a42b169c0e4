"""The packages that a lock file names: what `pip install --require-hashes` accepts, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "requirements.lock"
DEVELOPMENT = ROOT / "requirements-dev.lock"
WORKFLOWS = ROOT / "requirements-workflows.lock"

_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_USER = re.compile(r"^ +# +(?:via +)?([A-Za-z0-9._-]+)(?:\[.*\])?(?: \(.*\))?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Locked:
    """One package."""

    name: str
    """In the form that compares: lower case, with `-` alone between words (PEP 503)."""
    version: str
    marker: str
    """Condition under which it is installed, as PEP 508 writes it; empty if always."""
    sha256: tuple[str, ...]
    """Of each file that may be installed as this version, sorted."""
    users: tuple[str, ...]
    """Names of the packages that need this one."""


def read(lock: Path) -> list[Locked]:
    """Read a lock file as `make lock` writes it. ValueError for an entry without a version or without a hash."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", f"\n{lock.read_text(encoding='utf-8')}")[1:]
    return [_entry(entry) for entry in entries]


def _entry(entry: str) -> Locked:
    requirement = Requirement(entry.partition("\n")[0].rstrip(" \\"))
    pins = [each.version for each in requirement.specifier if each.operator == "=="]
    hashes = sorted(_HASH.findall(entry))
    if len(pins) != 1 or not hashes:
        raise ValueError(f"{requirement.name} is not locked to one version with hashes")
    return Locked(
        name=canonicalize_name(requirement.name),
        version=pins[0],
        marker=str(requirement.marker or ""),
        sha256=tuple(hashes),
        users=tuple(sorted({canonicalize_name(user) for user in _USER.findall(entry) if user != "via"})),
    )
