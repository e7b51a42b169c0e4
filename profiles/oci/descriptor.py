"""Descriptors, manifests and their media types, and the careful reading of their JSON."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from profiles.errors import TransferError
from profiles.oci.reference import DIGEST_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)

MAX_MANIFEST_BYTES = 4 * 2**20
"""The limit that registries have for manifests."""
MAX_BLOB_BYTES = 2**40
MAX_TEXT_CHARACTERS = 256
"""Limit for media types and titles."""
MAX_ANNOTATIONS = 256


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob or a manifest by its content."""

    media_type: str
    digest: str
    """`sha256:…`"""
    size: int
    """Bytes."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the object that a manifest has."""
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
            **({"artifactType": self.artifact_type} if self.artifact_type else {}),
            **({"annotations": dict(self.annotations)} if self.annotations else {}),
        }

    @classmethod
    def from_json(cls, data: object) -> Descriptor:
        """Check an object of a manifest. Raises TransferError."""
        if not isinstance(data, dict):
            raise TransferError("the manifest has something else where a descriptor must be")
        media_type, digest, size = (data.get(key) for key in ("mediaType", "digest", "size"))
        if not isinstance(digest, str) or not DIGEST_PATTERN.fullmatch(digest):
            raise TransferError("a descriptor of the manifest has no valid sha256 digest")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_BLOB_BYTES:
            raise TransferError(f"a descriptor of the manifest has no valid size: {digest}")
        return cls(
            _text(media_type, "media type"),
            digest,
            size,
            _annotations(data.get("annotations")),
            _text(data.get("artifactType") or "", "artifact type"),
        )


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest or an index, byte for byte as the registry has it. Its digest has been checked."""

    content: bytes
    media_type: str
    digest: str

    @property
    def data(self) -> dict[str, Any]:
        """The JSON object. Raises TransferError if it is none."""
        data = parse_json(self.content, "the manifest")
        if not isinstance(data, dict):
            raise TransferError("the manifest is no JSON object")
        return data

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.content))


def bytes_digest(content: bytes) -> str:
    """`sha256:…` of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def parse_json(content: bytes, what: str) -> Any:  # noqa: ANN401 - any JSON; callers check what they use
    """Read JSON of another program. Raises TransferError."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TransferError(f"{what} is no valid JSON") from error


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS or not value.isprintable():
        raise TransferError(f"a descriptor of the manifest has no valid {what}")
    return value


def _annotations(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MAX_ANNOTATIONS:
        raise TransferError("a descriptor of the manifest has invalid annotations")
    if not all(isinstance(each, str) for each in value.values()):
        raise TransferError("a descriptor of the manifest has annotations that are no text")
    return dict(value)
