"""Layouts and archives of images as sources of blobs, whole and damaged."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from profiles.errors import OciImageError
from profiles.oci.blob_cache import BlobCache
from profiles.oci.docker_archive import DockerArchive
from profiles.oci.image_files import ArchiveFiles, FolderFiles
from profiles.oci.image_layout import ImageLayout
from profiles.oci.image_source import find_image
from tests.container_images import (
    Member,
    compressed,
    docker_files,
    layer,
    layout_files,
    make_image,
    sha256,
    symlink,
    write_archive,
    write_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from profiles.oci.descriptor import Descriptor
    from profiles.oci.image_source import BlobSource

LAYERS = [layer(Member("a", b"one")), layer(Member("b", b"two"))]
IMAGE = make_image(LAYERS, {"Env": ["A=b"]})
BLOB = f"blobs/{sha256(IMAGE.manifest).replace(':', '/')}"


def layout(files: dict[str, bytes], tmp_path: Path) -> BlobSource:
    return ImageLayout(FolderFiles(write_folder(files, tmp_path / "layout")))


def archive(files: dict[str, bytes], tmp_path: Path) -> BlobSource:
    return ImageLayout(ArchiveFiles(write_archive(files, tmp_path / "image.tar")))


def docker(files: dict[str, bytes], tmp_path: Path) -> BlobSource:
    return DockerArchive(ArchiveFiles(write_archive(files, tmp_path / "image.tar")))


@pytest.mark.parametrize("kind", [layout, archive])
def test_image_of_a_layout_has_the_digest_of_its_manifest(
    tmp_path: Path, kind: Callable[[dict[str, bytes], Path], BlobSource]
) -> None:
    source = kind(layout_files(IMAGE), tmp_path)
    found = find_image(source, "")
    assert found.digest == IMAGE.digest
    assert found.config.settings == {"Env": ["A=b"]}
    assert find_image(source, IMAGE.digest) == found
    source.fetch_blob(found.layers[0], tmp_path / "blob")
    assert sha256((tmp_path / "blob").read_bytes()) == found.layers[0].digest


def test_image_of_docker_save_has_the_digest_of_its_config(tmp_path: Path) -> None:
    files = docker_files(LAYERS)
    source = docker(files, tmp_path)
    found = find_image(source, "")
    assert found.digest.partition(":")[2] + ".json" in files
    source.fetch_blob(found.layers[1], tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == LAYERS[1]


def test_compressed_layers_of_docker_save_are_found(tmp_path: Path) -> None:
    files = docker_files(LAYERS)
    files["1/layer.tar"] = compressed(LAYERS[1], "gzip")
    source = docker(files, tmp_path)
    found = find_image(source, "")
    assert (found.layers[0].digest, found.layers[1].digest) == (sha256(LAYERS[0]), sha256(files["1/layer.tar"]))
    assert found.config.diff_ids == tuple(sha256(each) for each in LAYERS)
    source.fetch_blob(found.layers[1], tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == files["1/layer.tar"]


def test_layer_that_is_a_link_to_another_one_is_found(tmp_path: Path) -> None:
    files = docker_files([LAYERS[0], LAYERS[0]])
    members = [Member(name, content) for name, content in files.items() if name != "1/layer.tar"]
    (tmp_path / "image.tar").write_bytes(layer(*members, symlink("1/layer.tar", "../0/layer.tar")))
    source = DockerArchive(ArchiveFiles(tmp_path / "image.tar"))
    source.fetch_blob(find_image(source, "").layers[1], tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == LAYERS[0]


FILES = layout_files(IMAGE)
WRONG_INDEX = json.dumps({"manifests": [{"mediaType": "x", "digest": sha256(b""), "size": 0}]}).encode()
DAMAGED: dict[str, tuple[dict[str, bytes], str]] = {
    "no layout": ({"index.json": b"{}"}, "no readable file oci-layout"),
    "layout of another version": (FILES | {"oci-layout": b'{"imageLayoutVersion": "9"}'}, "version"),
    "no index": ({name: content for name, content in FILES.items() if name != "index.json"}, "index.json"),
    "manifest changed": (FILES | {BLOB: b"{}"}, "damaged"),
    "manifest missing": ({name: content for name, content in FILES.items() if name != BLOB}, "no readable file"),
    "index to nothing": (FILES | {"index.json": WRONG_INDEX}, "media type"),
}


@pytest.mark.parametrize("kind", [layout, archive])
@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_layout_is_refused(
    tmp_path: Path, case: str, kind: Callable[[dict[str, bytes], Path], BlobSource]
) -> None:
    files, message = DAMAGED[case]
    with pytest.raises(OciImageError, match=message):
        find_image(kind(files, tmp_path), "")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "0 images"),
        ([{}, {}], "2 images"),
        ([{"Config": "../../etc/passwd", "Layers": ["0/layer.tar"]}], "no plain path"),
        ([{"Config": "/etc/passwd", "Layers": ["0/layer.tar"]}], "no plain path"),
        ([{"Config": 5, "Layers": []}], "names no configuration"),
        ([{"Config": "x.json", "Layers": []}], "must list"),
        ({}, "0 images"),
    ],
)
def test_damaged_docker_archive_is_refused(tmp_path: Path, document: object, message: str) -> None:
    files = docker_files(LAYERS) | {"manifest.json": json.dumps(document).encode()}
    with pytest.raises(OciImageError, match=message):
        docker(files, tmp_path)


def test_layer_with_other_content_is_refused_and_no_file_stays(tmp_path: Path) -> None:
    files = docker_files(LAYERS) | {"0/layer.tar": LAYERS[1]}
    source = docker(files, tmp_path)
    with pytest.raises(OciImageError, match="damaged"):
        source.fetch_blob(find_image(source, "").layers[0], tmp_path / "blob")
    assert not (tmp_path / "blob").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (layer(Member("index.json"), Member("./index.json")), "has it twice"),
        (layer(Member("../index.json")), "could lead out"),
        (b"\x1f\x8b" + bytes(600), "compressed as a whole"),
        (b"x" * 600, "no tar archive"),
    ],
)
def test_archive_of_no_form_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "image.tar").write_bytes(content)
    with pytest.raises(OciImageError, match=message):
        ArchiveFiles(tmp_path / "image.tar")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(layer(symlink("oci-layout", "other"), symlink("other", "oci-layout")))
    with pytest.raises(OciImageError, match="no readable file"):
        ImageLayout(ArchiveFiles(tmp_path / "image.tar"))


def test_links_of_a_layout_lead_nowhere(tmp_path: Path) -> None:
    folder = write_folder(FILES, tmp_path / "layout")
    (tmp_path / "secret").write_text("{}")
    (folder / "index.json").unlink()
    (folder / "index.json").symlink_to(tmp_path / "secret")
    with pytest.raises(OciImageError, match=r"index\.json"):
        find_image(ImageLayout(FolderFiles(folder)), "")
    (folder / "blobs").rename(tmp_path / "blobs")
    (folder / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(OciImageError, match="no readable file"):
        find_image(ImageLayout(FolderFiles(folder)), IMAGE.digest)


class CountingSource:
    """A source that counts what is fetched from it, and may send something else."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self.blobs = blobs
        self.fetched: list[str] = []

    def fetch_blob(self, descriptor: Descriptor, into: Path) -> None:
        self.fetched.append(descriptor.digest)
        into.write_bytes(self.blobs[descriptor.digest])


@pytest.fixture
def layer_descriptor(tmp_path: Path) -> Descriptor:
    return find_image(layout(FILES, tmp_path), "").layers[0]


def test_cache_keeps_blobs_privately_and_fetches_them_once(tmp_path: Path, layer_descriptor: Descriptor) -> None:
    source, cache = CountingSource(IMAGE.blobs), BlobCache(tmp_path / "new/cache")
    for _ in range(2):
        with cache.in_use():
            path = cache.fetch(source, layer_descriptor)  # type: ignore[arg-type]  # it needs one method of a source
            assert sha256(path.read_bytes()) == layer_descriptor.digest
    assert source.fetched == [layer_descriptor.digest]
    assert (tmp_path / "new/cache").stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


def test_damaged_blob_of_the_cache_is_fetched_again(tmp_path: Path, layer_descriptor: Descriptor) -> None:
    source, cache = CountingSource(IMAGE.blobs), BlobCache(tmp_path / "cache")
    with cache.in_use():
        path = cache.fetch(source, layer_descriptor)  # type: ignore[arg-type]
        damaged = bytearray(path.read_bytes())
        damaged[7] ^= 1
        path.write_bytes(damaged)
        assert sha256(cache.fetch(source, layer_descriptor).read_bytes()) == layer_descriptor.digest  # type: ignore[arg-type]
    assert len(source.fetched) == 2


def test_blob_that_arrives_damaged_does_not_enter_the_cache(tmp_path: Path, layer_descriptor: Descriptor) -> None:
    source, cache = CountingSource({layer_descriptor.digest: b"other"}), BlobCache(tmp_path / "cache")
    with cache.in_use(), pytest.raises(OciImageError, match="another content"):
        cache.fetch(source, layer_descriptor)  # type: ignore[arg-type]
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"lock"}


def test_cache_above_its_limit_loses_what_was_not_used_longest(tmp_path: Path) -> None:
    image = find_image(layout(FILES, tmp_path), "")
    cache = BlobCache(tmp_path / "cache", limit_bytes=image.layers[1].size)
    with cache.in_use():
        first, second = [cache.fetch(CountingSource(IMAGE.blobs), each) for each in image.layers]  # type: ignore[arg-type]
        os.utime(first, (1, 1))
        assert first.exists()
    assert not first.exists()
    assert second.exists()


def test_cache_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OciImageError, match="folder of your own"), BlobCache(tmp_path / "cache").in_use():
        pass
