"""Write the list of materials of a release, CycloneDX 1.6 as JSON: `make sbom`.

It names every package that requirements.lock installs beside Berth, with the SHA-256 of each file that the lock
accepts. The same tree and the same installed packages give the same bytes: there is no time and no random number in it.
Programs of the system (Slurm, Apptainer, OpenSSH) are the site's own and are not in it.
"""

from __future__ import annotations

import json
import sys
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from broker import __version__
from tests.release import locked

_OURS = f"pkg:generic/berth@{__version__}"
_SPACE = uuid.UUID("5c4b6a5e-3f0e-5d6c-9f57-0d6f7a3a8d21")
"""Of the serial numbers, which are made from the content (RFC 9562, version 5)."""
_LONGEST_LICENSE = 100
"""Characters; longer is the text of a license and not its name."""
_CLASSIFIER = "License :: "


def main(arguments: list[str]) -> int:
    """Write the list of this tree to the file that the one argument names."""
    [target] = map(Path, arguments)
    bom = render(locked.read(locked.RUNTIME))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(bom, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{target}: {len(bom['components'])} packages")
    return 0


def render(packages: list[locked.Locked]) -> dict[str, Any]:
    """Give the document for Berth and these packages."""
    packages = sorted(packages, key=lambda each: (each.name, each.version))
    references = {each.name: _purl(each) for each in packages}
    needs = {
        reference: [_purl(each) for each in packages if name in each.users] for name, reference in references.items()
    }
    content = {
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": _OURS,
                "name": "berth",
                "version": __version__,
                "licenses": [{"expression": "Apache-2.0"}],
                "purl": _OURS,
            }
        },
        "components": [_component(each) for each in packages],
        "dependencies": [
            {"ref": _OURS, "dependsOn": [_purl(each) for each in packages if "berth" in each.users]},
            *({"ref": reference, "dependsOn": needed} for reference, needed in needs.items()),
        ],
    }
    serial = uuid.uuid5(_SPACE, json.dumps(content, sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        **content,
    }


def _component(package: locked.Locked) -> dict[str, Any]:
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "hashes": [{"alg": "SHA-256", "content": each} for each in package.sha256],
    }
    if licenses := _licenses(package):
        component["licenses"] = licenses
    component["purl"] = _purl(package)
    if package.marker:
        component["properties"] = [{"name": "berth:marker", "value": package.marker}]
    return component


def _purl(package: locked.Locked) -> str:
    """Name a package as https://github.com/package-url/purl-spec does."""
    return f"pkg:pypi/{package.name}@{quote(package.version, safe='')}"


def _licenses(package: locked.Locked) -> list[dict[str, Any]]:
    """Read what the installed package says of its license (PEP 639, or its classifiers); empty where it says nothing,
    or where another version is installed.
    """
    try:
        found = metadata.metadata(package.name)
    except metadata.PackageNotFoundError:
        return []
    if found["Version"] != package.version:
        return []
    for expression in found.get_all("License-Expression", []):
        return [{"expression": expression}]
    classifiers = [each for each in found.get_all("Classifier", []) if each.startswith(_CLASSIFIER)]
    names = [each.rpartition(" :: ")[2] for each in classifiers if each != f"{_CLASSIFIER}OSI Approved"]
    if not names:
        names = [each for each in found.get_all("License", []) if len(each) <= _LONGEST_LICENSE and each.isprintable()]
    return [{"license": {"name": each}} for each in sorted(set(names))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
