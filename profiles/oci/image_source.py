"""The interface of the sources of images, and the image that a source has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from profiles.errors import OciImageError
from profiles.oci.documents import (
    IMAGE_TYPES,
    INDEX_TYPES,
    MAX_IMAGE_CONFIG_BYTES,
    ImageConfig,
    choose_manifest,
    machine_architecture,
    parse_image_config,
    parse_manifest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.oci.descriptor import Descriptor, StoredManifest

MAX_INDEX_DEPTH = 3
"""Indexes within each other: the one of a folder, the one of an image, and one more."""


class BlobSource(Protocol):
    """A registry, an archive or a folder with the parts of images. Every method raises ProfilesError."""

    def manifest(self, target: str) -> StoredManifest:
        """Return the manifest or index with this tag or digest. An archive takes its only image for an empty one."""

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return a blob of at most `limit` bytes that has the size and digest of its descriptor."""

    def fetch_blob(self, descriptor: Descriptor, into: Path) -> None:
        """Write a blob of that size and digest to the new file `into`; there is no file after an error."""


@dataclass(frozen=True, slots=True)
class OciImage:
    """An image for this machine in its source."""

    digest: str
    """`sha256:…` of the manifest for this machine, or of what identifies the image in its source instead."""
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    """Lowest first."""


def find_image(source: BlobSource, target: str) -> OciImage:
    """Read the documents of the image `target`, a tag, a digest, or empty. Nothing large is fetched. ProfilesError."""
    architecture = machine_architecture()
    found = source.manifest(target)
    for _ in range(MAX_INDEX_DEPTH):
        if found.media_type not in INDEX_TYPES:
            break
        chosen = choose_manifest(found.content, architecture)
        found = source.manifest(chosen.digest)
        if found.media_type != chosen.media_type or len(found.content) != chosen.size:
            raise OciImageError("the index of the image describes a manifest of another type or size")
    if found.media_type not in IMAGE_TYPES:
        raise OciImageError(
            f"this is no container image: its media type is {found.media_type[:100]!r}",
            hint="pull it as a profile: it is an image of Berth or Apptainer"
            if "sylabs" in found.media_type
            else "a container image of OCI or Docker is needed",
        )
    manifest = parse_manifest(found.content)
    config = source.read_blob(manifest.config, MAX_IMAGE_CONFIG_BYTES)
    return OciImage(found.digest, parse_image_config(config, len(manifest.layers), architecture), manifest.layers)
