"""Archives of `docker save` and of other tools that write its form: `manifest.json` names a configuration and layers.

The form has no manifest. So one is made from what the archive has: the configuration says the digests of the
uncompressed layers, and most tools do not compress them.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from profiles.errors import OciImageError
from profiles.oci.descriptor import MAX_MANIFEST_BYTES, OCI_MANIFEST, Descriptor, StoredManifest, bytes_digest
from profiles.oci.documents import (
    MAX_IMAGE_CONFIG_BYTES,
    OCI_CONFIG,
    OCI_LAYER,
    machine_architecture,
    parse_image_config,
)
from profiles.oci.image_files import BlobFiles, copy_verified, read_member
from profiles.oci.json_document import parse_json_object
from profiles.oci.unpack_limits import MAX_LAYERS
from profiles.oci.unpack_stream import Compression, detect_compression

if TYPE_CHECKING:
    from pathlib import Path


class DockerArchive:
    """A BlobSource over the only image of such an archive. Raises OciImageError."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        config_name, layer_names = _members(read_member(files, "manifest.json", MAX_MANIFEST_BYTES))
        self._config = read_member(files, config_name, MAX_IMAGE_CONFIG_BYTES)
        config = parse_image_config(self._config, len(layer_names), machine_architecture())
        digests = [
            _file_digest(files, name, diff_id) for diff_id, name in zip(config.diff_ids, layer_names, strict=True)
        ]
        self._names = dict(zip(digests, layer_names, strict=True))
        self.digest = bytes_digest(self._config)
        """The digest of the configuration, which docker calls the id of the image."""
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, self.digest, len(self._config)).as_json(),
            "layers": [
                Descriptor(OCI_LAYER, digest, files.size(name)).as_json()
                for digest, name in zip(digests, layer_names, strict=True)
            ],
        }
        self._manifest = json.dumps(document).encode()

    def manifest(self, target: str) -> StoredManifest:
        """Return the manifest of the image; OciImageError for any other target than the image itself."""
        if target:
            raise OciImageError("an archive of this kind has one image, which no tag or digest names")
        return StoredManifest(self._manifest, OCI_MANIFEST, self.digest)

    def read_blob(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return the configuration."""
        if descriptor.digest != self.digest or len(self._config) > limit:
            raise OciImageError(f"the archive has no document {descriptor.digest[:19]}")
        return self._config

    def fetch_blob(self, descriptor: Descriptor, into: Path) -> None:
        """Write a layer of that size and digest to the new file `into`; there is no file after an error."""
        name = self._names.get(descriptor.digest)
        if name is None:
            raise OciImageError(f"the archive has no layer {descriptor.digest[:19]}")
        copy_verified(self._files.pieces(name), descriptor.size, descriptor.digest, into)


def _file_digest(files: BlobFiles, name: str, diff_id: str) -> str:
    """Return the digest that the file of a layer must have: it is counted if the layer is compressed."""
    pieces = files.pieces(name)
    begin = next(pieces, b"")
    if detect_compression(begin) is Compression.NONE:
        return diff_id
    found = hashlib.sha256(begin)
    for piece in pieces:
        found.update(piece)
    return f"sha256:{found.hexdigest()}"


def _members(content: bytes) -> tuple[str, list[str]]:
    """Return the names of the configuration and of the layers of the only image."""
    listed = parse_json_object(b'{"images":' + content + b"}", "manifest.json", MAX_MANIFEST_BYTES + 16)
    images = listed.get("images")
    if not isinstance(images, list) or len(listed) != 1 or len(images) != 1 or not isinstance(images[0], dict):
        number = len(images) if isinstance(images, list) else 0
        raise OciImageError(
            f"the archive has {number} images, and one is needed",
            hint="save the one that you mean to an archive of its own",
        )
    config, layers = images[0].get("Config"), images[0].get("Layers")
    if not isinstance(config, str) or not isinstance(layers, list) or not all(isinstance(each, str) for each in layers):
        raise OciImageError("manifest.json of the archive names no configuration and layers")
    if not 0 < len(layers) <= MAX_LAYERS:
        raise OciImageError(f"manifest.json of the archive must list from 1 to {MAX_LAYERS} layers")
    return config, layers
