"""The sources of features: folders beside devcontainer.json, and registries. Those are kept here by their digest."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from profiles.devcontainer.feature_archive import unpack_feature
from profiles.devcontainer.feature_graph import LoadedFeature
from profiles.devcontainer.feature_metadata import FEATURE_FILE, INSTALL_SCRIPT, read_feature
from profiles.dockerfile.content import content_digest
from profiles.errors import FeatureError
from profiles.userfile import is_file

if TYPE_CHECKING:
    from profiles.devcontainer.feature_reference import FeatureReference
    from profiles.devcontainer.lock_file import LockFile


class FeatureRegistry(Protocol):
    """A client that fetches features from registries."""

    def resolve(self, reference: FeatureReference) -> str:
        """Return the digest of the feature's manifest, `sha256:…`. Raises ProfilesError."""

    def fetch(self, reference: FeatureReference, digest: str, into: Path) -> None:
        """Write the archive of the feature with this digest to the new file `into`. Raises ProfilesError."""


class FeatureSource:
    """Loads the features of one devcontainer.json. Each is read once."""

    def __init__(self, config: Path, registry: FeatureRegistry, lock: LockFile | None, cache: Path) -> None:
        self._folder = config.parent
        self._registry = registry
        self._lock = lock
        self._cache = cache
        self._loaded: dict[FeatureReference, LoadedFeature] = {}

    def load(self, reference: FeatureReference) -> LoadedFeature:
        """Return a feature with its files on this machine. Raises ProfilesError."""
        if reference not in self._loaded:
            self._loaded[reference] = self._local(reference) if reference.is_local else self._find_published(reference)
        return self._loaded[reference]

    def _local(self, reference: FeatureReference) -> LoadedFeature:
        folder = (self._folder / reference.name).resolve()
        if not folder.is_relative_to(self._folder.resolve()):
            raise FeatureError(f"the feature {reference} is a link to a folder outside that of devcontainer.json")
        if not is_file(folder / FEATURE_FILE):
            raise FeatureError(f"the feature {reference} has no {FEATURE_FILE}: {folder}")
        return self._read(reference, folder, content_digest(folder))

    def _find_published(self, reference: FeatureReference) -> LoadedFeature:
        digest = self._locked_digest(reference) or reference.digest or self._registry.resolve(reference)
        folder = self._cache / digest.replace(":", "-")
        if not is_file(folder / FEATURE_FILE):
            self._fetch(reference, digest, folder)
        return self._read(reference, folder, digest)

    def _read(self, reference: FeatureReference, folder: Path, digest: str) -> LoadedFeature:
        if not is_file(folder / INSTALL_SCRIPT):
            raise FeatureError(f"the feature {reference} has no {INSTALL_SCRIPT}: {folder}")
        return LoadedFeature(reference, read_feature(folder), folder, digest)

    def _locked_digest(self, reference: FeatureReference) -> str:
        locked = self._lock.features.get(str(reference)) if self._lock else None
        if locked is None:
            return ""
        if locked.resolved != f"{reference.name}@{locked.integrity}":
            raise FeatureError(
                f"the lock file's `resolved` and `integrity` of {reference} are not the same",
                hint="delete the entry to lock the feature again",
            )
        return locked.integrity

    def _fetch(self, reference: FeatureReference, digest: str, folder: Path) -> None:
        """Put a feature into the cache by one rename: a feature there is whole."""
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".fetch-", dir=self._cache))
        try:
            archive = stage / "archive"
            self._registry.fetch(reference, digest, archive)
            unpack_feature(archive, stage / "feature", str(reference))
            archive.unlink()
            try:
                (stage / "feature").rename(folder)
            except OSError:  # another process was faster
                if not is_file(folder / FEATURE_FILE):
                    raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def feature_cache() -> Path:
    """Return the user's cache of features from registries."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path(os.environ.get("HOME", "/nonexistent"), ".cache"))
    return Path(root, "berth", "features")
