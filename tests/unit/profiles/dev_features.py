"""Features of dev containers for tests: folders with a devcontainer-feature.json and an install.sh."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from profiles.devcontainer.feature_graph import FeatureNode, LoadedFeature, resolve_features
from profiles.devcontainer.feature_metadata import FeatureMetadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from profiles.devcontainer.feature_metadata import FeatureOptions
    from profiles.devcontainer.feature_reference import FeatureReference


def write_feature(folder: Path, script: str = "true\n", **data: object) -> Path:
    """Write a feature, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {"id": folder.name, "version": "1.0.0", **data}
    (folder / "devcontainer-feature.json").write_text(json.dumps(metadata))
    (folder / "install.sh").write_text(f"#!/bin/sh\nset -e\n{script}")
    return folder


def nodes_of(
    folder: Path, known: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, FeatureOptions]
) -> list[FeatureNode]:
    """Return the wanted features of those that are `known`, by their names without versions."""

    def load(reference: FeatureReference) -> LoadedFeature:
        data = {"id": reference.name.rpartition("/")[2], **known.get(reference.name, {})}
        return LoadedFeature(reference, FeatureMetadata.model_validate(data), folder, f"sha256:{reference}")

    return resolve_features(wanted, load)
