"""Container images for tests: layers made entry by entry, and images as layouts and archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from profiles.oci.descriptor import OCI_INDEX, OCI_MANIFEST
from profiles.oci.documents import OCI_CONFIG, OCI_LAYER, machine_architecture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MTIME = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a layer, as tarfile writes it. `pax` is added to its header as it is."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = MTIME
    pax: dict[str, str] = field(default_factory=dict)


def folder(name: str, mode: int = 0o755, **more: Any) -> Member:  # noqa: ANN401 - any field
    return Member(name, kind=tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, target: str) -> Member:
    return Member(name, kind=tarfile.SYMTYPE, link=target, mode=0o777)


def hard_link(name: str, target: str) -> Member:
    return Member(name, kind=tarfile.LNKTYPE, link=target)


def layer(*members: Member) -> bytes:
    """Make a layer, uncompressed."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size, info.type, info.linkname = len(member.content), member.kind, member.link
            info.mode, info.uid, info.gid, info.mtime = member.mode, member.uid, member.gid, member.mtime
            info.pax_headers = dict(member.pax)
            archive.addfile(info, io.BytesIO(member.content))
    return made.getvalue()


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def compressed(content: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.compress(content, 1, mtime=0)
    if kind == "zstd":
        return subprocess.run(["zstd", "-q", "-3", "-c"], input=content, capture_output=True, check=True).stdout
    return content


@dataclass(frozen=True, slots=True)
class MadeImage:
    """The documents and blobs of an image, by digest."""

    blobs: dict[str, bytes]
    manifest: bytes
    config: bytes

    @property
    def digest(self) -> str:
        return sha256(self.manifest)


def make_image(
    layers: Sequence[bytes], settings: dict[str, Any] | None = None, *, compression: str = "gzip"
) -> MadeImage:
    """Make an image for this machine."""
    config = json.dumps(
        {
            "architecture": machine_architecture(),
            "os": "linux",
            "config": settings or {},
            "rootfs": {"type": "layers", "diff_ids": [sha256(each) for each in layers]},
            "history": [{"created_by": "tests"} for _ in layers],
        }
    ).encode()
    stored = [compressed(each, compression) for each in layers]
    suffix = "" if compression == "none" else f"+{compression}"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(config, OCI_CONFIG),
            "layers": [descriptor(each, OCI_LAYER + suffix) for each in stored],
        }
    ).encode()
    return MadeImage({sha256(each): each for each in (config, manifest, *stored)}, manifest, config)


def descriptor(content: bytes, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": sha256(content), "size": len(content)}


def layout_files(image: MadeImage) -> dict[str, bytes]:
    """Return the files of an OCI layout."""
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [
            descriptor(image.manifest, OCI_MANIFEST)
            | {"platform": {"os": "linux", "architecture": machine_architecture()}}
        ],
    }
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **{f"blobs/{digest.replace(':', '/')}": content for digest, content in image.blobs.items()},
    }


def docker_files(layers: Sequence[bytes], settings: dict[str, Any] | None = None) -> dict[str, bytes]:
    """Return the files of an archive of `docker save`."""
    config = make_image(layers, settings, compression="none").config
    name = f"{sha256(config).partition(':')[2]}.json"
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    listed = [{"Config": name, "RepoTags": ["test:1"], "Layers": names}]
    return {"manifest.json": json.dumps(listed).encode(), name: config, **dict(zip(names, layers, strict=True))}


def write_folder(files: dict[str, bytes], where: Path) -> Path:
    for name, content in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(content)
    return where


def write_archive(files: dict[str, bytes], where: Path) -> Path:
    """Write an archive with folders before their files, as Apptainer needs them."""
    folders = {str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."}
    where.write_bytes(layer(*map(folder, sorted(folders)), *(Member(name, content) for name, content in files.items())))
    return where
