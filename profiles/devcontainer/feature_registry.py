"""Features in registries, where each is an artifact with one layer, an archive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from profiles.errors import FeatureError
from profiles.oci.descriptor import OCI_MANIFEST, Descriptor
from profiles.oci.reference import ImageReference
from profiles.oci.registry_access import RegistryAccess
from profiles.oci.registry_client import RegistryClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.devcontainer.feature_reference import FeatureReference

FEATURE_LAYER = "application/vnd.devcontainers.layer.v1+tar"


@dataclass(frozen=True, slots=True)
class FeatureRegistries:
    """Fetches features. `access` says how each registry, by its name, is reached."""

    access: Callable[[ImageReference], RegistryAccess] = lambda _: RegistryAccess()

    def resolve(self, reference: FeatureReference) -> str:
        """Return the digest of the feature's manifest, `sha256:…`. Raises ProfilesError."""
        with self._client(reference) as client:
            return client.manifest(reference.tag or "latest", (OCI_MANIFEST,)).digest

    def fetch(self, reference: FeatureReference, digest: str, into: Path) -> None:
        """Write the archive of the feature with this digest to the new file `into`. Raises ProfilesError."""
        with self._client(reference) as client:
            manifest: dict[str, Any] = client.manifest(digest, (OCI_MANIFEST,)).data
            layers = manifest.get("layers")
            if not isinstance(layers, list) or len(layers) != 1:
                raise FeatureError(f"{reference} in the registry is no feature: it does not have one layer")
            layer = Descriptor.from_json(layers[0])
            if layer.media_type != FEATURE_LAYER:
                raise FeatureError(f"{reference} in the registry is no feature: its layer is {layer.media_type[:80]!r}")
            client.fetch_blob(layer, into)

    def _client(self, reference: FeatureReference) -> RegistryClient:
        image = ImageReference.parse(reference.name)
        return RegistryClient(image, self.access(image))
