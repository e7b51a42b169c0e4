"""The provenance of an image for other programs: an in-toto statement with the predicate of SLSA 1.0.

It is made from what the store records of the image, and says no more than that. Its subject is the artefact's manifest
in the registry, which covers the SIF, the recipe and the description.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from profiles.oci.descriptor import bytes_digest

if TYPE_CHECKING:
    from profiles.image.store import Image

PROVENANCE = "provenance.json"
"""The title of the statement among the files that are attached to an image."""
PROVENANCE_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:berth:profile-build:1"
BUILDER = "urn:berth:builder"


def make_provenance(image: Image, name: str, manifest_digest: str, recipe: str) -> bytes:
    """Return the statement. `name` is the image's name in the registry, `recipe` the text of its recipe."""
    labels = image.labels
    base: dict[str, Any] = {"uri": str(image.profile.base)}
    if digest := labels.get("berth.base.digest"):
        base["digest"] = _digest(digest)
    internal = {"buildKey": image.build_key} if image.build_key else {}
    created = labels.get("berth.created", "")
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": _digest(manifest_digest)}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"profile": image.name, "version": image.version, "recipe": recipe},
                "internalParameters": internal,
                "resolvedDependencies": [base],
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"berth": labels.get("berth.builder", "")}},
                "metadata": {"finishedOn": created} if created else {},
                "byproducts": [
                    {"name": "image.sif", "digest": _digest(image.digest)},
                    {"name": "profile.yaml", "digest": _digest(bytes_digest(recipe.encode()))},
                ],
            },
        },
    }
    return json.dumps(statement, sort_keys=True).encode()


def _digest(text: str) -> dict[str, Any]:
    algorithm, _, value = text.partition(":")
    return {algorithm: value}
