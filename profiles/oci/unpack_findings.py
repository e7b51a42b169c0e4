"""The result of unpacking the layers of an image: counts, and all that had to be changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from profiles.oci.entry_path import show_entry
from profiles.oci.tar_reader import EntryType

if TYPE_CHECKING:
    from profiles.oci.tar_reader import TarEntry

MAX_EXAMPLES = 5
_CAPABILITY = b"security.capability"


@dataclass(slots=True)
class Occurrences:
    """A number of entries, and the first of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)


@dataclass(slots=True)
class UnpackFindings:
    """The result of unpacking an image."""

    entries: int = 0
    names_bytes: int = 0
    """Bytes of the names of all entries together."""
    unpacked_bytes: int = 0
    has_shell: bool = False
    """Whether the image has /bin/sh."""
    foreign_owners: Occurrences = field(default_factory=Occurrences)
    """Entries whose owner or group the builder's ids do not include: they belong to root now."""
    capabilities: Occurrences = field(default_factory=Occurrences)
    """Files that lost their capabilities(7)."""
    attributes: Occurrences = field(default_factory=Occurrences)
    """Entries that lost other extended attributes."""
    pipes: Occurrences = field(default_factory=Occurrences)
    """Named pipes, which were kept."""

    def note_owner(self, path: bytes, uid: int, gid: int) -> None:
        self.foreign_owners.add(f"{show_entry(path)} ({uid}:{gid})")

    def note_attributes(self, entry: TarEntry, path: bytes) -> None:
        if entry.kind is EntryType.FIFO:
            self.pipes.add(show_entry(path))
        if _CAPABILITY in entry.xattrs:
            self.capabilities.add(show_entry(path))
        elif entry.xattrs:
            self.attributes.add(show_entry(path))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> UnpackFindings:
        """Read what `as_json` has written."""
        found = cls(data["entries"], data["names_bytes"], data["unpacked_bytes"], data["has_shell"])
        for name in ("foreign_owners", "capabilities", "attributes", "pipes"):
            setattr(found, name, Occurrences(**data[name]))
        return found
