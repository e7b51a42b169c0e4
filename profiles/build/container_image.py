"""Container images as bases: the source that a recipe names, and the layers as files on this machine."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from profiles.build.command import CommandFailed
from profiles.build.tree_program import run_tree_module
from profiles.errors import NoSuchImageError, OciImageError
from profiles.oci import unpack_worker
from profiles.oci.blob_cache import BlobCache, user_cache_folder
from profiles.oci.docker_archive import DockerArchive
from profiles.oci.image_files import ArchiveFiles, FolderFiles
from profiles.oci.image_layout import ImageLayout
from profiles.oci.image_source import BlobSource, OciImage, find_image
from profiles.oci.registry_access import AccessTo, plain_access
from profiles.oci.unpack_layers import LayerFile
from profiles.oci.unpack_stream import MAGIC_BYTES, detect_compression
from profiles.recipe.base import Base, BaseKind
from profiles.userfile import is_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from profiles.build.command import ProgramRunner
    from profiles.oci.unpack_findings import UnpackFindings


def find_container_image(base: Base, access: AccessTo = plain_access) -> OciImage:
    """Read the documents of the image that `base` names, but no layer. Raises ProfilesError."""
    with _open_source(base, access) as source:
        return find_image(source, base.image.target if base.image else "")


@contextlib.contextmanager
def fetched_layers(
    base: Base, image: OciImage, folder: Path, access: AccessTo, say: Callable[[str], None]
) -> Iterator[list[LayerFile]]:
    """Provide the layers of an image as checked files for the time of the block, lowest first. Raises ProfilesError.

    Layers from a registry stay in the user's cache. Those of archives and folders are copied to `folder`, so that a
    change of the archive meanwhile changes nothing, and removed afterwards.
    """
    kept = folder / "blobs"
    cache = BlobCache(user_cache_folder() if base.kind is BaseKind.OCI else kept)
    try:
        with cache.in_use():
            yield _fetch(base, image, cache, access, say)
    finally:
        shutil.rmtree(kept, ignore_errors=True)


def unpack_layers(layers: Sequence[LayerFile], root: Path, folder: Path, run: ProgramRunner) -> UnpackFindings:
    """Unpack the layers into `root`, as root of the tree; `folder` is the build's own.

    Raises OciImageError for a damaged or hostile image, and what `run` raises.
    """
    unpack_worker.write_request(folder, layers, root)
    try:
        run_tree_module(run, "profiles.oci.unpack_worker", str(folder))
    except CommandFailed:
        unpack_worker.read_result(folder)  # it raises the worker's refusal
        raise
    findings = unpack_worker.read_result(folder)
    if findings is None:
        raise OciImageError("the layers were not unpacked", hint="the log has the details")
    return findings


def _fetch(
    base: Base, image: OciImage, cache: BlobCache, access: AccessTo, say: Callable[[str], None]
) -> list[LayerFile]:
    layers = []
    with _open_source(base, access) as source:
        for number, (descriptor, diff_id) in enumerate(zip(image.layers, image.config.diff_ids, strict=True), start=1):
            say(f"layer {number} of {len(image.layers)}: {descriptor.digest}, {descriptor.size} bytes")
            path = cache.fetch(source, descriptor)
            with path.open("rb") as file:
                compression = detect_compression(file.read(MAGIC_BYTES))
            layers.append(LayerFile(str(path), descriptor.digest, diff_id, compression))
    return layers


@contextlib.contextmanager
def _open_source(base: Base, access: AccessTo) -> Iterator[BlobSource]:
    """Open the source of an image. An unreadable file becomes an OciImageError."""
    if base.image is not None:
        from profiles.oci.registry_client import RegistryClient  # noqa: PLC0415 - the client of HTTP is large

        with RegistryClient(base.image, access(base.image)) as client:
            yield client
        return
    is_folder = base.kind is BaseKind.OCI_LAYOUT
    if not (base.path.is_dir() if is_folder else is_file(base.path)):
        what = "folder" if is_folder else "file"
        raise NoSuchImageError(
            f"there is no {what} {base.path}", hint=f"the path of a `{base.kind}:` base is relative to the profile"
        )
    try:
        files = FolderFiles(base.path) if is_folder else ArchiveFiles(base.path)
        yield DockerArchive(files) if base.kind is BaseKind.DOCKER_ARCHIVE else ImageLayout(files)
    except OSError as error:
        raise OciImageError(f"{error.filename or base.path}: {error.strerror}") from error
