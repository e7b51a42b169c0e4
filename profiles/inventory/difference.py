"""Compare the inventories of two images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from profiles.inventory.model import Inventory


@dataclass(frozen=True, slots=True, order=True)
class ContentChange:
    """A package or an executable that differs. `before` is empty for an added one, `after` for a removed one."""

    kind: str
    """The package manager, or `file`."""
    name: str
    before: str
    after: str
    """Versions, separated by commas if there are several; of a file the SHA-256."""


def compare_inventories(before: Inventory, after: Inventory) -> list[ContentChange]:
    """Return the changes, sorted: packages by package manager, and executables that no package owns."""
    return [*_changes(_versions(before), _versions(after)), *_changes(_digests(before), _digests(after))]


def _versions(inventory: Inventory) -> dict[tuple[str, str], str]:
    """Map each package to its versions: an image may have a Python or npm package several times."""
    architectures: dict[tuple[str, str], set[str]] = {}
    for package in inventory.packages:
        architectures.setdefault((package.kind.value, package.name), set()).add(package.architecture)
    found: dict[tuple[str, str], list[str]] = {}
    for package in inventory.packages:
        several = len(architectures[package.kind.value, package.name]) > 1
        name = f"{package.name}:{package.architecture}" if several else package.name
        # The same version of a feature may have other files.
        version = f"{package.version} {package.digest[:19]}".strip()
        found.setdefault((package.kind.value, name), []).append(version)
    return {key: ", ".join(versions) for key, versions in found.items()}


def _digests(inventory: Inventory) -> dict[tuple[str, str], str]:
    return {("file", each.path): each.sha256 for each in inventory.executables}


def _changes(before: Mapping[tuple[str, str], str], after: Mapping[tuple[str, str], str]) -> Iterable[ContentChange]:
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            yield ContentChange(*key, before.get(key, ""), after.get(key, ""))
