"""Differences between a session's system and its image: packages, files of its own, and files left out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

Version = tuple[str, str]
"""A package's name and version."""


@dataclass(frozen=True, slots=True)
class ChangedPath:
    """One path that differs from the image's and belongs to no package."""

    path: str
    """Absolute."""
    change: str
    """`A`dded, `M`odified, or `D`eleted."""
    kind: str = ""
    """An EntryKind; empty for a deletion."""
    uid: int = 0
    gid: int = 0
    mode: int = 0
    size: int = 0
    target: str = ""
    """Of a symbolic link."""
    source: str = ""
    """The file that has the content."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One path that is left out of the image."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Findings:
    """All differences; lists are sorted by name or path."""

    added: list[Version] = field(default_factory=list)
    removed: list[Version] = field(default_factory=list)
    changed: list[tuple[str, str, str]] = field(default_factory=list)
    """Name, version before, version now."""
    by_hand: list[Version] = field(default_factory=list)
    """Packages that the user requested: of the added ones, and of those that the image has only as a dependency."""
    pip: list[Version] = field(default_factory=list)
    """Python packages that are new or in another version."""
    accounts: list[str] = field(default_factory=list)
    """New and changed lines of /etc/group and then of /etc/passwd, those of packages too."""
    files: list[ChangedPath] = field(default_factory=list)
    of_packages: int = 0
    """Number of further paths that belong to packages, or that packages and package managers have made."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Only the topmost path of a directory that is left out as a whole."""
    unmatched: list[str] = field(default_factory=list)
    """The user's patterns that match nothing."""

    @property
    def empty(self) -> bool:
        """Whether an image made of this would equal the image that it is compared with."""
        packages = (self.added, self.removed, self.changed, self.by_hand, self.pip)
        return not (any(packages) or self.files or self.accounts)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Findings:
        data: dict[str, Any] = json.loads(text)
        return cls(
            changed=[(name, before, now) for name, before, now in data["changed"]],
            **{key: [(name, version) for name, version in data[key]] for key in ("added", "removed", "by_hand", "pip")},
            accounts=data["accounts"],
            files=[ChangedPath(**each) for each in data["files"]],
            of_packages=data["of_packages"],
            left_out=[LeftOut(**each) for each in data["left_out"]],
            unmatched=data["unmatched"],
        )
