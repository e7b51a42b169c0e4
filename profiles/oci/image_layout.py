"""OCI image layouts, as folders and as archives: `oci-layout`, `index.json`, `blobs/sha256/…`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiles.errors import OciImageError
from profiles.oci.descriptor import (
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    StoredManifest,
    bytes_digest,
)
from profiles.oci.image_files import BlobFiles, copy_verified, read_member
from profiles.oci.json_document import parse_json_object
from profiles.oci.reference import DIGEST_PATTERN

if TYPE_CHECKING:
    from pathlib import Path

MAX_LAYOUT_BYTES = 4096


class ImageLayout:
    """A BlobSource over the files of an OCI image layout. Raises OciImageError if it is none."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        layout = parse_json_object(read_member(files, "oci-layout", MAX_LAYOUT_BYTES), "oci-layout", MAX_LAYOUT_BYTES)
        if not str(layout.get("imageLayoutVersion")).startswith("1."):
            raise OciImageError("the image is of a version of OCI layouts that Berth does not read")

    def manifest(self, target: str) -> StoredManifest:
        """Return the manifest or index with a digest; the index of the layout for an empty target."""
        if not target:
            content = read_member(self._files, "index.json", MAX_MANIFEST_BYTES)
            return StoredManifest(content, OCI_INDEX, bytes_digest(content))
        content = self._read(target, MAX_MANIFEST_BYTES)
        kind = parse_json_object(content, "a manifest of the image", MAX_MANIFEST_BYTES).get("mediaType")
        return StoredManifest(content, kind if isinstance(kind, str) else _guess_type(content), target)

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return a blob of at most `limit` bytes that has the size and digest of its descriptor."""
        content = self._read(descriptor.digest, limit)
        if len(content) != descriptor.size:
            raise OciImageError(f"the blob {descriptor.digest[:19]} of the image has another size than its descriptor")
        return content

    def fetch_blob(self, descriptor: Descriptor, into: Path) -> None:
        """Write a blob of that size and digest to the new file `into`; there is no file after an error."""
        name = _blob_name(descriptor.digest)
        self._files.size(name)
        copy_verified(self._files.pieces(name), descriptor.size, descriptor.digest, into)

    def _read(self, digest: str, limit: int) -> bytes:
        content = read_member(self._files, _blob_name(digest), limit)
        if bytes_digest(content) != digest:
            raise OciImageError(
                f"the blob {digest[:19]} of the image is damaged: its content is another one",
                hint="copy the image again",
            )
        return content


def _blob_name(digest: str) -> str:
    if not DIGEST_PATTERN.fullmatch(digest):
        raise OciImageError(f"{digest[:100]!r} is no sha256 digest")
    return f"blobs/{digest.replace(':', '/')}"


def _guess_type(content: bytes) -> str:
    """Return the type of a document that does not say it, which the specification allows: what it has decides."""
    data = parse_json_object(content, "a manifest of the image", MAX_MANIFEST_BYTES)
    return OCI_INDEX if "manifests" in data else OCI_MANIFEST
