"""The documents of an image, checked: index, manifest and configuration, as OCI and Docker write them."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

from profiles.errors import OciImageError
from profiles.oci.descriptor import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
)
from profiles.oci.json_document import parse_json_object
from profiles.oci.reference import DIGEST_PATTERN
from profiles.oci.unpack_limits import MAX_LAYERS, MAX_UNPACKED_BYTES

MAX_IMAGE_CONFIG_BYTES = 4 * 2**20
MAX_INDEX_ENTRIES = 1024
MAX_CONFIG_LIST = 4096
"""Items of a list of the configuration, such as `Env`."""

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
IMAGE_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
CONFIG_TYPES = frozenset({OCI_CONFIG, "application/vnd.docker.container.image.v1+json"})
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_TYPES = frozenset(
    {
        OCI_LAYER,
        f"{OCI_LAYER}+gzip",
        f"{OCI_LAYER}+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "ppc64le": "ppc64le",
    "riscv64": "riscv64",
    "s390x": "s390x",
}
"""The names that images have for the machines of uname(2)."""
_VARIANTS = ("", "v1", "v8")
"""The variants of a processor that every machine of the architecture can run."""


@dataclass(frozen=True, slots=True)
class ImageLayers:
    """A manifest: the descriptors of the configuration and of the layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The configuration of an image: digests of the uncompressed layers, and settings for its containers."""

    diff_ids: tuple[str, ...]
    settings: dict[str, Any]
    """The object `config`, unchecked: profiles.build.import_report checks each value."""


def machine_architecture() -> str:
    """Return the name that images have for this machine."""
    return ARCHITECTURES.get(platform.machine(), platform.machine())


def parse_descriptor(data: object, what: str, types: frozenset[str]) -> Descriptor:
    """Check a reference by content whose media type must be one of `types`. Raises OciImageError."""
    if not isinstance(data, dict):
        raise OciImageError(f"{what} is no JSON object")
    kind, digest, size = data.get("mediaType"), data.get("digest"), data.get("size")
    if kind not in types:
        raise OciImageError(
            f"{what} has the media type {str(kind)[:100]!r}, which Berth does not read",
            hint="a container image of OCI or Docker is needed, not encrypted, and no other kind of artifact",
        )
    if not isinstance(digest, str) or not DIGEST_PATTERN.fullmatch(digest):
        raise OciImageError(
            f"{what} has the digest {str(digest)[:100]!r}, and sha256 is the only kind that Berth reads"
        )
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= MAX_UNPACKED_BYTES:
        raise OciImageError(f"{what} has the impossible size {str(size)[:30]}")
    return Descriptor(kind, digest, size)


def choose_manifest(content: bytes, architecture: str) -> Descriptor:
    """Return the entry of an index for Linux on `architecture`. Raises OciImageError."""
    data = parse_json_object(content, "the index of the image", MAX_MANIFEST_BYTES)
    entries = data.get("manifests")
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_INDEX_ENTRIES:
        raise OciImageError(f"the index of the image must list from 1 to {MAX_INDEX_ENTRIES} images")
    platforms = [_platform(entry) for entry in entries]
    fitting = [
        entry
        for variant in _VARIANTS
        for entry, found in zip(entries, platforms, strict=True)
        if found == ("linux", architecture, variant)
    ]
    if not fitting:
        fitting = [entry for entry, found in zip(entries, platforms, strict=True) if found == ("", "", "")]
        if len(fitting) > 1:
            raise OciImageError(
                f"there are {len(fitting)} images, and one is needed{_names(fitting)}",
                hint="copy the one that you mean to an archive of its own",
            )
    if not fitting:
        known = sorted({"/".join(filter(None, found)) for found in platforms})
        raise OciImageError(
            f"the image does not exist for linux/{architecture}, only for {', '.join(known)[:200]}",
            hint="take an image for this machine's processor",
        )
    return parse_descriptor(fitting[0], "an entry of the index", INDEX_TYPES | IMAGE_TYPES)


def _platform(entry: object) -> tuple[str, str, str]:
    """Return system, architecture and variant of an entry; empty for one that says nothing."""
    if not isinstance(entry, dict):
        raise OciImageError("an entry of the index is no JSON object")
    found = entry.get("platform") or {}
    system, architecture, variant = (
        (found.get(key, "") for key in ("os", "architecture", "variant")) if isinstance(found, dict) else (None,) * 3
    )
    if not (isinstance(system, str) and isinstance(architecture, str) and isinstance(variant, str)):
        raise OciImageError("an entry of the index has a damaged platform")
    return system, architecture, variant


def _names(entries: list[dict[str, Any]]) -> str:
    names = [
        str(entry["annotations"].get("org.opencontainers.image.ref.name"))[:60]
        for entry in entries[:10]
        if isinstance(entry.get("annotations"), dict)
    ]
    return f": {', '.join(names)}" if names else ""


def parse_manifest(content: bytes) -> ImageLayers:
    """Check a manifest. Raises OciImageError."""
    data = parse_json_object(content, "the manifest of the image", MAX_MANIFEST_BYTES)
    if data.get("schemaVersion") != 2:
        raise OciImageError(
            "the manifest of the image is of a version that Berth does not read",
            hint="push the image again with a tool of the last ten years",
        )
    layers = data.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise OciImageError(f"the manifest of the image must list from 1 to {MAX_LAYERS} layers")
    config = parse_descriptor(data.get("config"), "the configuration in the manifest", CONFIG_TYPES)
    return ImageLayers(
        config,
        tuple(
            parse_descriptor(layer, f"layer {number} in the manifest", LAYER_TYPES)
            for number, layer in enumerate(layers, start=1)
        ),
    )


def parse_image_config(content: bytes, layers: int, architecture: str) -> ImageConfig:
    """Check a configuration, which must be for Linux on `architecture` and have that many layers. OciImageError."""
    data = parse_json_object(content, "the configuration of the image", MAX_IMAGE_CONFIG_BYTES)
    built_for = (data.get("os"), data.get("architecture"))
    if built_for != ("linux", architecture):
        shown = "/".join(str(each)[:30] for each in built_for)
        raise OciImageError(
            f"the image is for {shown}, and this machine is linux/{architecture}",
            hint="take an image for this machine's processor",
        )
    rootfs = data.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != layers:
        raise OciImageError("the configuration of the image lists other layers than its manifest")
    if not all(isinstance(each, str) and DIGEST_PATTERN.fullmatch(each) for each in diff_ids):
        raise OciImageError("the configuration of the image has a digest of a layer that is no sha256 digest")
    settings = data.get("config") or {}
    if not isinstance(settings, dict):
        raise OciImageError("the settings in the configuration of the image are no JSON object")
    return ImageConfig(tuple(diff_ids), settings)
