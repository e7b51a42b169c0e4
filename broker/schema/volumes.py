"""API types of snapshots and volume operations. `sessions` says the units."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from broker.names import LABEL_PATTERN
from broker.schema.base import Name, Strict, Version
from broker.schema.sessions import Persistence

SnapshotLabel = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
"""A snapshot's label: not a number, so that it cannot be taken for one."""


SnapshotReference = Annotated[str, StringConstraints(pattern=f"^([1-9][0-9]{{0,8}}|{LABEL_PATTERN[1:-1]})$")]
"""A snapshot's number or label."""


class SnapshotRequest(Strict):
    label: SnapshotLabel | None = None


class RollbackRequest(Strict):
    snapshot: SnapshotReference


class SwitchRequest(Strict):
    profile: Name
    version: Version | None = None
    fresh: bool = False
    """Begin with an empty system volume even if the session has been on this version before."""
    persistence: Persistence | None = None


class CloneRequest(Strict):
    name: Name
    """Of the new session."""
    at: SnapshotReference | None = None
    """A snapshot of the source; default: as it is now."""
    profile: Name | None = None
    version: Version | None = None
    start: bool = False
    """Start it as soon as it is made."""


class RestoreRequest(Strict):
    name: Name | None = None
    """Its name from now on; default: the one it had."""


class SnapshotView(Strict):
    number: int
    label: str = ""
    reason: str = ""
    """Why it was made, for an automatic one."""
    automatic: bool = False
    at: float
    consistency: Literal["stopped", "frozen", "crash-consistent"]
    """`stopped`: no job ran. `frozen`: every process stood still during the copy. `crash-consistent`: one could not be
    stopped, so files may be of slightly different moments."""
    pause: float = 0.0
    """Seconds that the session's processes stood still for it."""
    profile: str
    version: str
    digest: str = ""
    home: list[str] = Field(default_factory=list)
    """Layer ids, oldest first."""
    system: list[str] = Field(default_factory=list)


class SnapshotList(Strict):
    snapshots: list[SnapshotView]


class FileChange(Strict):
    change: Literal["A", "M", "D"]
    """Added, modified (or its attributes), deleted."""
    volume: Literal["home", "system"]
    path: str
    """As the session sees it."""


class PackageChange(Strict):
    name: str
    before: str = ""
    """The version; empty for an added one."""
    after: str = ""


class DiffReport(Strict):
    base: str
    """What it is compared with: `profile base@1` or `snapshot 3`."""
    packages: list[PackageChange] = Field(default_factory=list)
    files: list[FileChange] = Field(default_factory=list)
    truncated: bool = False
    """Whether there are more files than are listed."""
    content: bool = False
    """Whether files were read that have the same kind, mode, size, time of modification, attributes and access lists:
    only then a change is found that left all of these as they were."""
    system_as_of: float | None = None
    """When a running session's changes outside of its home were saved that this is about, where its job has them on its
    node's disk; 0 if none were yet."""


class SizeLine(Strict):
    what: str
    """`home`, `system`, or `snapshot N`."""
    own: int
    """Bytes that only this has: what deleting it would give back."""
    total: int
    """Bytes that it consists of, shared ones too."""
    files: int = 0


class SizeReport(Strict):
    lines: list[SizeLine]
    bytes: int
    """All of the session's data, everything counted once."""
    free: int
    """Bytes free for the user where the data lies."""
    system_as_of: float | None = None
    """As in DiffReport."""


class VerifyReport(Strict):
    layers: int
    """How many immutable layers were read."""
    recorded: int
    """How many of them had no checksums yet: they were recorded now, for the next time."""
    problems: list[str] = Field(default_factory=list)


class GcRequest(Strict):
    dry_run: bool = False


class GcReport(Strict):
    layers: int
    """Layers that no stack names."""
    bytes: int
    sessions: list[str] = Field(default_factory=list)
    """Names of deleted sessions whose grace time is over."""
    dry_run: bool
