"""The key of a build: a digest over exactly what the build reads, so that an unchanged recipe builds nothing."""

from __future__ import annotations

import hashlib
import json
import platform
from typing import TYPE_CHECKING

from profiles.image.store import file_digest
from profiles.recipe.base import BaseKind

if TYPE_CHECKING:
    from profiles.recipe.spec import File, Profile

BUILD_FORMAT = 1
"""Counts the changes of the builder that give another image from the same recipe."""


def build_key(profile: Profile, base_digest: str) -> str:
    """Return `sha256:…` of the recipe, of the base's digest and of the files that the recipe names. Raises OSError.

    The form of the recipe, paths, and the versions that a package source has today are no part of it. A recipe without
    checks has the key that it had in releases that knew none.
    """
    base, left_out = profile.base, {"base", "build_secrets", "files", *(() if profile.checks else ("checks",))}
    named = str(base) if base.kind in {BaseKind.DEBIAN, BaseKind.PROFILE} else base.kind.value
    read = {
        "format": BUILD_FORMAT,
        "machine": platform.machine(),
        "base": [named, base_digest],
        "files": file_keys(profile),
        "recipe": profile.model_dump(mode="json", exclude=left_out),
    }
    return f"sha256:{hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()}"


def file_keys(profile: Profile) -> list[list[object]]:
    """Return what a build reads of the recipe's `files`: for each its destination, mode and digest. Raises OSError."""
    return [_file(file) for file in profile.files]


def _file(file: File) -> list[object]:
    if file.source is not None:
        return [file.destination, file.mode, file_digest(file.source)]
    content = (file.content or "").encode()
    return [file.destination, file.mode, f"sha256:{hashlib.sha256(content).hexdigest()}"]
