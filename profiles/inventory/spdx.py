"""Write an inventory as SPDX 2.3, JSON (https://spdx.github.io/spdx-spec/v2.3).

It names the same packages and executables as the CycloneDX document. An executable is a package of the purpose FILE,
because a `file` of SPDX would need a SHA-1.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from profiles.inventory.cyclonedx import NAMESPACE
from profiles.inventory.model import PackageKind
from profiles.inventory.purl import image_url, package_url

if TYPE_CHECKING:
    from profiles.inventory.model import Inventory

_NONE = "NOASSERTION"


def as_spdx(inventory: Inventory) -> str:
    """Return the document."""
    origin = inventory.origin
    base = _base(origin.base, origin.base_digest)
    installed = _package_elements(inventory)
    image = _element("SPDXRef-Image", origin.name, origin.version, "CONTAINER") | _reference(image_url(origin))
    content: dict[str, Any] = {
        "name": f"{origin.name}@{origin.version}",
        "creationInfo": {"created": origin.created, "creators": ["Tool: berth"]},
        "packages": [image, base, *installed],
        "relationships": [
            _relationship("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image"),
            _relationship("SPDXRef-Image", "DESCENDANT_OF", "SPDXRef-Base"),
            *(_relationship("SPDXRef-Image", "CONTAINS", each["SPDXID"]) for each in installed),
        ],
    }
    identity = uuid.uuid5(NAMESPACE, json.dumps(content, sort_keys=True))
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "documentNamespace": f"urn:uuid:{identity}",
        **content,
    }
    return json.dumps(document, indent=1) + "\n"


def _package_elements(inventory: Inventory) -> list[dict[str, Any]]:
    elements = []
    for package in inventory.packages:
        url = package_url(package, inventory.system)
        element = _element(_identifier(url), package.name, package.version, "LIBRARY") | _reference(url)
        if package.source:
            element["sourceInfo"] = f"built from the source package {package.source} {package.source_version}"
        elif package.kind is PackageKind.FEATURE:
            element["sourceInfo"] = f"a dev container feature {package.digest}".rstrip()
        elif package.locations:
            element["sourceInfo"] = f"installed in {', '.join(package.locations)}"
        elements.append(element)
    for executable in inventory.executables:
        checksum = {"algorithm": "SHA256", "checksumValue": executable.sha256}
        identifier = _identifier(f"file:{executable.path}")
        elements.append(_element(identifier, executable.path, "", "FILE") | {"checksums": [checksum]})
    return elements


def _base(name: str, digest: str) -> dict[str, Any]:
    element = _element("SPDXRef-Base", name, "", "CONTAINER")
    algorithm, _, value = digest.partition(":")
    checksums = [{"algorithm": "SHA256", "checksumValue": value}] if algorithm == "sha256" else []
    return element | ({"checksums": checksums} if checksums else {})


def _element(identifier: str, name: str, version: str, purpose: str) -> dict[str, Any]:
    return {
        "SPDXID": identifier,
        "name": name,
        **({"versionInfo": version} if version else {}),
        "primaryPackagePurpose": purpose,
        "downloadLocation": _NONE,
        "filesAnalyzed": False,
        "licenseConcluded": _NONE,
        "licenseDeclared": _NONE,
        "copyrightText": _NONE,
    }


def _reference(url: str) -> dict[str, Any]:
    reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": url}
    return {"externalRefs": [reference]}


def _identifier(text: str) -> str:
    return f"SPDXRef-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def _relationship(left: str, kind: str, right: str) -> dict[str, str]:
    return {"spdxElementId": left, "relationshipType": kind, "relatedSpdxElement": right}
