"""Write an inventory as CycloneDX 1.6, JSON (https://cyclonedx.org/docs/1.6/json).

The same inventory gives the same bytes. Properties with names that begin with `berth:` hold what the format has no
place for; cyclonedx_reader.py reads all of it back.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from profiles.inventory.purl import image_url, package_url

if TYPE_CHECKING:
    from profiles.inventory.model import InstalledPackage, Inventory, LooseExecutable, OperatingSystem

NAMESPACE = uuid.UUID("0d6f5b0e-8a54-5f35-9a4b-6a4a1a3f9d17")
"""Of the serial numbers, which are made from the content (RFC 9562, version 5)."""
GENERATION = "1"
"""Raised if a reader of an earlier release would misunderstand what is written here."""


def as_cyclonedx(inventory: Inventory) -> str:
    """Return the document."""
    content = {
        "metadata": {
            "timestamp": inventory.origin.created,
            "tools": {"components": [{"type": "application", "name": "berth"}]},
            "component": _image(inventory),
        },
        "components": [
            *_system(inventory.system),
            *(_package(package, inventory.system) for package in inventory.packages),
            *(_executable(each) for each in inventory.executables),
        ],
        "compositions": [{"aggregate": "incomplete" if inventory.unread else "complete"}],
    }
    serial = uuid.uuid5(NAMESPACE, json.dumps(content, sort_keys=True))
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        **content,
    }
    return json.dumps(document, indent=1) + "\n"


def _image(inventory: Inventory) -> dict[str, Any]:
    origin = inventory.origin
    algorithm, _, digest = origin.base_digest.partition(":")
    hashes = {"hashes": [{"alg": "SHA-256", "content": digest}]} if algorithm == "sha256" else {}
    return {
        "type": "container",
        "bom-ref": "image",
        "name": origin.name,
        "version": origin.version,
        "purl": image_url(origin),
        "pedigree": {"ancestors": [{"type": "container", "name": origin.base, **hashes}]},
        "properties": _properties(
            {
                "generation": [GENERATION],
                "builder": [origin.builder],
                "unread": [json.dumps([each.path, each.reason]) for each in inventory.unread],
            }
        ),
    }


def _system(system: OperatingSystem) -> list[dict[str, Any]]:
    if not system.id:
        return []
    return [
        {
            "type": "operating-system",
            "bom-ref": "system",
            "name": system.id,
            **({"version": system.version} if system.version else {}),
            "properties": _properties({"suite": [system.suite]}),
        }
    ]


def _package(package: InstalledPackage, system: OperatingSystem) -> dict[str, Any]:
    url = package_url(package, system)
    properties = {
        "kind": [package.kind.value],
        "architecture": [package.architecture],
        "source": [package.source],
        "source-version": [package.source_version],
        "location": list(package.locations),
        "digest": [package.digest],
    }
    return {
        "type": "library",
        "bom-ref": url,
        "name": package.name,
        "version": package.version,
        "purl": url,
        "properties": _properties(properties),
    }


def _executable(executable: LooseExecutable) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file:{executable.path}",
        "name": executable.path,
        "hashes": [{"alg": "SHA-256", "content": executable.sha256}],
        "properties": _properties({"size": [str(executable.size)]}),
    }


def _properties(values: dict[str, list[str]]) -> list[dict[str, str]]:
    return [{"name": f"berth:{key}", "value": value} for key, texts in values.items() for value in texts if value]
