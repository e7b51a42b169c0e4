"""API types of snapshots and volume operations. Units are those of `sessions`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from broker.names import LABEL_PATTERN
from broker.schema.base import Name, ProfileReference, Strict, Version
from broker.schema.sessions import Persistence

SnapshotLabel = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]
"""A snapshot's label, which cannot be a number."""


SnapshotReference = Annotated[str, StringConstraints(pattern=f"^([1-9][0-9]{{0,8}}|{LABEL_PATTERN[1:-1]})$")]
"""A snapshot's number or label."""


class SnapshotRequest(Strict):
    label: SnapshotLabel | None = None


class RollbackRequest(Strict):
    snapshot: SnapshotReference


class SwitchRequest(Strict):
    profile: ProfileReference
    version: Version | None = None
    fresh: bool = False
    """Begin with an empty system volume even if the session has used this version before."""
    persistence: Persistence | None = None


class UpgradeRequest(Strict):
    """A request to take the version that the session follows."""

    fresh: bool = False
    """Leave the packages and files behind that the session has of its own outside the home; a snapshot keeps them."""


class CloneRequest(Strict):
    name: Name
    """The new session's name."""
    at: SnapshotReference | None = None
    """A snapshot of the source; default: its present state."""
    profile: ProfileReference | None = None
    version: Version | None = None
    start: bool = False
    """Start it after its creation."""


class RestoreRequest(Strict):
    name: Name | None = None
    """Its new name; default: its former name."""


class SnapshotView(Strict):
    number: int
    label: str = ""
    reason: str = ""
    """The reason for an automatic snapshot."""
    automatic: bool = False
    at: float
    consistency: Literal["stopped", "frozen", "crash-consistent"]
    """`stopped`: no job ran. `frozen`: all processes were frozen during the copy. `crash-consistent`: some could not be
    frozen, so files may be of slightly different times."""
    pause: float = 0.0
    """Seconds for which the session's processes were frozen."""
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
    """The base of the comparison: `profile base@1` or `snapshot 3`."""
    packages: list[PackageChange] = Field(default_factory=list)
    files: list[FileChange] = Field(default_factory=list)
    truncated: bool = False
    """Whether more files changed than are listed."""
    content: bool = False
    """Whether the content of files with the same type, mode, size, modification time, attributes and access lists was
    compared, too."""
    system_as_of: float | None = None
    """If a running session has its changes outside its home on the node's disk: the time of the save that was compared;
    0 before the first save."""


class SizeLine(Strict):
    what: str
    """`home`, `system`, or `snapshot N`."""
    own: int
    """Bytes that a deletion would free."""
    total: int
    """Bytes with those that are shared."""
    files: int = 0


class SizeReport(Strict):
    lines: list[SizeLine]
    bytes: int
    """All data of the session, shared data counted once."""
    free: int
    """Bytes that are free for the user on the file system."""
    system_as_of: float | None = None
    """As in DiffReport."""


class VerifyReport(Strict):
    layers: int
    """Number of layers that were read."""
    recorded: int
    """Number of layers without checksums, whose checksums were recorded now."""
    problems: list[str] = Field(default_factory=list)


class GcRequest(Strict):
    dry_run: bool = False


class GcReport(Strict):
    layers: int
    """Layers that no stack refers to."""
    bytes: int
    sessions: list[str] = Field(default_factory=list)
    """Names of deleted sessions whose grace time has passed."""
    dry_run: bool
