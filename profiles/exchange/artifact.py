"""The artefact of an image in a registry: the SIF as its only layer, with the media types of Apptainer.

`apptainer pull oras://` takes it, and the digest of the layer is that of the SIF file, which is also Berth's digest of
the image. The configuration has what Apptainer leaves empty: the files that decide what the image does, and the digests
of the others. So the digest of the manifest covers all of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from profiles.errors import TransferError
from profiles.exchange.attachments import ATTACHMENT_TYPES, CORE, MAX_ATTACHMENT_BYTES, MAX_CORE_BYTES
from profiles.oci.descriptor import DOCKER_LIST, OCI_INDEX, OCI_MANIFEST, Descriptor, StoredManifest, parse_json

if TYPE_CHECKING:
    from collections.abc import Mapping

SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"
_SIF_LAYERS = {SIF_LAYER, "appliciation/vnd.sylabs.sif.layer.tar"}
"""The second one, with its misspelling, is that of SingularityCE and Apptainer before 1.0."""
PLAIN_CONFIG = "application/vnd.unknown.config.v1+json"
"""The type of the configuration for registries that refuse SIF_CONFIG, as some installations of Harbor do."""
CONFIG_TYPES = {SIF_CONFIG, PLAIN_CONFIG}
MAX_CONFIG_BYTES = 4 * 2**20
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ImageParts:
    """The files of an image besides the SIF: the texts of the CORE files, and where the others are."""

    texts: Mapping[str, str]
    others: Mapping[str, Descriptor] = field(default_factory=dict)

    def as_config(self) -> bytes:
        """Return the content of the artefact's configuration."""
        others = {name: each.as_json() for name, each in self.others.items()}
        berth = {"format": _FORMAT, "texts": dict(self.texts), "files": others}
        return json.dumps({"berth": berth}, sort_keys=True).encode()

    @classmethod
    def from_config(cls, content: bytes) -> ImageParts | None:
        """Read a configuration; None if another program has made it. Raises TransferError."""
        data = parse_json(content, "the configuration of the image")
        berth = data.get("berth") if isinstance(data, dict) else None
        if berth is None:
            return None
        if not isinstance(berth, dict) or berth.get("format") != _FORMAT:
            raise TransferError("the image is in a format that this version of Berth does not know")
        texts, files = berth.get("texts"), berth.get("files")
        if not isinstance(texts, dict) or not isinstance(files, dict):
            raise TransferError("the configuration of the image is damaged")
        for name, text in texts.items():
            if name not in CORE or not isinstance(text, str) or len(text) > MAX_CORE_BYTES:
                raise TransferError(f"the configuration of the image has an invalid file: {name[:100]!r}")
        return cls(texts, {name: _other(name, each) for name, each in files.items() if name in ATTACHMENT_TYPES})


@dataclass(frozen=True, slots=True)
class Artifact:
    """The layer with the SIF, and the configuration."""

    layer: Descriptor
    config: Descriptor


def write_manifest(artifact: Artifact, annotations: Mapping[str, str]) -> bytes:
    """Return the manifest of an artefact, always the same bytes for the same image."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": artifact.config.as_json(),
            "layers": [artifact.layer.as_json()],
            "annotations": dict(annotations),
        }
    ).encode()


def read_artifact(manifest: StoredManifest, shown: str) -> Artifact:
    """Return the parts of a SIF artefact. Raises TransferError for anything else that a registry may have."""
    if manifest.media_type in {OCI_INDEX, DOCKER_LIST}:
        raise _no_sif(shown, "a list of images for several machines")
    data = manifest.data
    layers = data.get("layers")
    if not isinstance(layers, list) or len(layers) != 1:
        raise _no_sif(shown, _kind(data))
    layer = Descriptor.from_json(layers[0])
    if layer.media_type not in _SIF_LAYERS:
        raise _no_sif(shown, _kind(data))
    return Artifact(layer, Descriptor.from_json(data.get("config")))


def _other(name: str, data: object) -> Descriptor:
    descriptor = Descriptor.from_json(data)
    if descriptor.size > MAX_ATTACHMENT_BYTES:
        raise TransferError(f"the file {name} of the image is too large: {descriptor.size} bytes")
    return descriptor


def _kind(data: Mapping[str, Any]) -> str:
    config = data.get("config")
    kind = config.get("mediaType") if isinstance(config, dict) else None
    if kind in {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}:
        return "a container image in layers"
    return "something else"


def _no_sif(shown: str, what: str) -> TransferError:
    return TransferError(
        f"{shown} is {what}, not an image that Berth or Apptainer has pushed",
        hint="a profile with it as its base makes an image of it: see `berth profile build --help`",
    )
