"""devcontainer-lock.json: the versions of features from registries, and the digests that they must have."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, ValidationError

from profiles.devcontainer.feature_metadata import LOOSE
from profiles.devcontainer.json_problems import json_problems
from profiles.devcontainer.jsonc import read_jsonc
from profiles.devcontainer.schema import MAX_FEATURES
from profiles.errors import FeatureError
from profiles.recipe.problems import problems_error
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from profiles.devcontainer.feature_graph import FeatureNode

LOCK_FILE = "devcontainer-lock.json"
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class LockedFeature(BaseModel):
    """A feature as it was when the file was written."""

    model_config = LOOSE

    version: str
    resolved: str
    """The name with the digest of the manifest."""
    integrity: Digest
    depends_on: Annotated[list[str], Field(alias="dependsOn", max_length=MAX_FEATURES)] = []


class LockFile(BaseModel):
    """The locked features by their names in lower case, with the versions that were asked for."""

    model_config = LOOSE

    features: Annotated[dict[str, LockedFeature], Field(max_length=MAX_FEATURES)] = {}


def lock_path(config: Path) -> Path:
    """Return the lock file that belongs to a devcontainer.json."""
    return config.parent / (f".{LOCK_FILE}" if config.name.startswith(".") else LOCK_FILE)


def read_lock(config: Path) -> LockFile | None:
    """Read the lock file of a devcontainer.json; None if there is none. Raises ProfileError."""
    file = lock_path(config)
    if not is_file(file):
        return None
    document = read_jsonc(file)
    try:
        return LockFile.model_validate(document.data)
    except ValidationError as error:
        raise problems_error(json_problems(error, document, LockFile), file) from error


def make_lock(nodes: Sequence[FeatureNode]) -> LockFile:
    """Return the lock of these features. Local ones are not locked: they are in the repository."""
    locked = {}
    for node in sorted(nodes, key=lambda node: str(node.feature.reference)):
        feature = node.feature
        if not feature.reference.is_local:
            locked[str(feature.reference)] = LockedFeature(
                version=feature.metadata.version,
                resolved=f"{feature.reference.name}@{feature.digest}",
                integrity=feature.digest,
                depends_on=sorted(name.lower() for name in feature.metadata.depends_on),
            )
    return LockFile(features=locked)


def require_locked(lock: LockFile | None, made: LockFile, config: Path) -> None:
    """Return if `lock` says what `made` says. Raises FeatureError with the first feature that differs."""
    held = lock.features if lock else {}
    for name in sorted(held.keys() | made.features.keys()):
        if held.get(name) != made.features.get(name):
            raise FeatureError(
                f"{lock_path(config)} does not have the feature {name} as it is now",
                hint="without --frozen-lockfile, the file is written again",
            )


def write_lock(lock: LockFile, config: Path) -> None:
    """Replace the lock file of a devcontainer.json by one rename. Raises OSError."""
    features = {
        name: {
            "version": each.version,
            "resolved": each.resolved,
            "integrity": each.integrity,
            **({"dependsOn": each.depends_on} if each.depends_on else {}),
        }
        for name, each in lock.features.items()
    }
    place = lock_path(config)
    descriptor, name = tempfile.mkstemp(prefix=f".{LOCK_FILE}.", dir=place.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps({"features": features}, indent=2) + "\n")
        Path(name).chmod(0o644)
        Path(name).replace(place)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
