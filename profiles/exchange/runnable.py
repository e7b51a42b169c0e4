"""A runnable OCI image of a tree: one layer, and the configuration that engines start a container with."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.errors import ImageExistsError, StoreError
from profiles.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor, bytes_digest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from profiles.image.store import Image

IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
COMMAND = ("/bin/bash",)
REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer in a file."""

    path: Path
    descriptor: Descriptor
    diff_id: str
    """`sha256:…` of the tar archive before its compression."""


@dataclass(frozen=True, slots=True)
class RunnableImage:
    """An OCI image whose layer is in a file."""

    layer: Layer
    config: bytes
    manifest: bytes

    @property
    def digest(self) -> str:
        """`sha256:…` of the manifest."""
        return bytes_digest(self.manifest)


def make_runnable(image: Image, layer: Layer, environment: Mapping[str, str], architecture: str) -> RunnableImage:
    """Return the OCI image of `layer`: the labels and the time are the image's, and its command is bash."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.created))
    labels = {
        **image.labels,
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.version": image.version,
        "org.opencontainers.image.created": created,
        "berth.digest": image.digest,
    }
    if image.profile.description:
        labels["org.opencontainers.image.description"] = image.profile.description
    config = json.dumps(
        {
            "created": created,
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": [f"{name}={value}" for name, value in environment.items()],
                "Cmd": list(COMMAND),
                "WorkingDir": "/",
                "Labels": labels,
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created": created, "created_by": f"exported from {image.name}@{image.version}"}],
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(IMAGE_CONFIG, bytes_digest(config), len(config)).as_json(),
            "layers": [layer.descriptor.as_json()],
        }
    ).encode()
    return RunnableImage(layer, config, manifest)


def write_archive(runnable: RunnableImage, file: Path, tag: str) -> None:
    """Write `oci-archive:` to the new file, all at once. Raises ImageExistsError, StoreError.

    It is a tar archive of an OCI image layout with one image, whose name in it is `tag`.
    """
    if file.exists() or file.is_symlink():
        raise ImageExistsError(f"{file} exists", hint="name another file, or remove this one")
    described = Descriptor(OCI_MANIFEST, runnable.digest, len(runnable.manifest), {REF_NAME: tag})
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [described.as_json()]}
    small = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        _blob(runnable.digest): runnable.manifest,
        _blob(bytes_digest(runnable.config)): runnable.config,
    }
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with tarfile.open(partial, "x", format=tarfile.PAX_FORMAT) as archive:
            for name, content in small.items():
                archive.addfile(_entry(name, len(content)), io.BytesIO(content))
            with runnable.layer.path.open("rb") as layer:
                size = runnable.layer.descriptor.size
                archive.addfile(_entry(_blob(runnable.layer.descriptor.digest), size), layer)
        os.link(partial, file)  # unlike rename(2), it replaces nothing
    except FileExistsError as error:
        raise ImageExistsError(f"{file} exists", hint="name another file, or remove this one") from error
    except OSError as error:
        raise StoreError(f"cannot write {file}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry
