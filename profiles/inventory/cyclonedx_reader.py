"""Read an inventory back from the CycloneDX document that Berth has written.

The document may come from someone else's store. So every text is checked again before a command prints it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from profiles.inventory.cyclonedx import GENERATION
from profiles.inventory.model import (
    ImageOrigin,
    InstalledPackage,
    Inventory,
    InventoryError,
    LooseExecutable,
    OperatingSystem,
    PackageKind,
    UnreadPart,
)
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

MAX_SBOM_BYTES = 256 << 20
"""Of 100,000 packages, 600 bytes each, and as many executables."""
MAX_TEXT_LENGTH = 16_384
"""Characters of a path: PATH_MAX, each byte escaped."""
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError)
"""Errors that a document raises that is no inventory."""
_SHA256 = re.compile("[0-9a-f]{64}")


def read_inventory(file: Path) -> Inventory:
    """Return the inventory in a file. InventoryError if it is no inventory that this release reads, OSError."""
    content = read_bytes(file, MAX_SBOM_BYTES, own=False)
    try:
        return parse_inventory(json.loads(content))
    except UNREADABLE as error:
        raise InventoryError(
            f"{file} is no inventory that this release reads", hint="build the image again under another version"
        ) from error


def parse_inventory(document: Any) -> Inventory:  # noqa: ANN401 - whatever the JSON has
    """Return the inventory in a document. Raises one of UNREADABLE if it is none."""
    image = document["metadata"]["component"]
    own = _properties(image)
    if own.get("generation") != [GENERATION]:
        raise ValueError("another generation")
    components = document["components"]
    kinds = [each["type"] for each in components]
    if not {*kinds} <= {"operating-system", "library", "file"}:
        raise ValueError("a component of another type")
    systems = [each for each in components if each["type"] == "operating-system"]
    return Inventory(
        _origin(document, image, own),
        _system(systems[0]) if systems else OperatingSystem(),
        tuple(sorted(_package(each) for each in components if each["type"] == "library")),
        tuple(sorted(_executable(each) for each in components if each["type"] == "file")),
        tuple(sorted(UnreadPart(*map(_text, json.loads(each))) for each in own.get("unread", []))),
    )


def _origin(document: dict[str, Any], image: dict[str, Any], own: dict[str, list[str]]) -> ImageOrigin:
    [ancestor] = image["pedigree"]["ancestors"]
    digests = [f"sha256:{_digest(each['content'])}" for each in ancestor.get("hashes", [])]
    return ImageOrigin(
        _text(image["name"]),
        _text(image["version"]),
        _text(ancestor["name"]),
        (digests or [""])[0],
        _text(document["metadata"]["timestamp"]),
        _one(own, "builder"),
    )


def _system(component: dict[str, Any]) -> OperatingSystem:
    suite = _one(_properties(component), "suite")
    return OperatingSystem(_text(component["name"]), _text(component.get("version", "")), suite)


def _package(component: dict[str, Any]) -> InstalledPackage:
    own = _properties(component)
    digest = _one(own, "digest")
    return InstalledPackage(
        PackageKind(_one(own, "kind")),
        _text(component["name"]),
        _text(component["version"]),
        _one(own, "architecture"),
        _one(own, "source"),
        _one(own, "source-version"),
        tuple(own.get("location", [])),
        f"sha256:{_digest(digest.removeprefix('sha256:'))}" if digest else "",
    )


def _executable(component: dict[str, Any]) -> LooseExecutable:
    [checksum] = component["hashes"]
    size = _one(_properties(component), "size")
    return LooseExecutable(_text(component["name"]), int(size[:20]), _digest(checksum["content"]))


def _properties(component: dict[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in component.get("properties", []):
        found.setdefault(_text(each["name"]).removeprefix("berth:"), []).append(_text(each["value"]))
    return found


def _one(properties: dict[str, list[str]], name: str) -> str:
    [value] = properties.get(name, [""])
    return value


def _digest(text: object) -> str:
    if not isinstance(text, str) or not _SHA256.fullmatch(text):
        raise ValueError("no digest")
    return text


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_TEXT_LENGTH:
        raise ValueError("no printable text")
    return value
