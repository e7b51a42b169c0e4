"""Images of a registry as bases: docker-registry, the cache of layers, and what is pinned."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from profiles.build.container_image import fetched_layers, find_container_image
from profiles.errors import TransferError
from profiles.oci.descriptor import OCI_INDEX, OCI_MANIFEST, Descriptor
from profiles.oci.documents import OCI_CONFIG, OCI_LAYER
from profiles.oci.reference import ImageReference
from profiles.oci.registry_access import plain_access
from profiles.oci.registry_client import RegistryClient
from profiles.recipe.base import parse_base
from tests.container_images import MadeImage, Member, layer, layout_files, make_image, sha256
from tests.registry_server import running_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYERS = [layer(Member("a", b"one")), layer(Member("b", b"two"))]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/berth/blobs"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "registry").mkdir()
    with running_registry(tmp_path / "registry") as number:
        yield number


def push(image: MadeImage, reference: str, tmp_path: Path) -> None:
    """Push an image, with an index in front of it as tools for several machines make it."""
    named = ImageReference.parse(reference)
    with RegistryClient(named) as client:
        for digest, content in image.blobs.items():
            if content != image.manifest:
                kind = OCI_CONFIG if content == image.config else OCI_LAYER
                (tmp_path / "blob").write_bytes(content)
                client.push_blob(Descriptor(kind, digest, len(content)), tmp_path / "blob")
        client.push_manifest(image.manifest, OCI_MANIFEST)
        client.push_manifest(layout_files(image)["index.json"], OCI_INDEX, named.tag)


def contents(base: str, folder: Path) -> list[str]:
    """Return the digests of the layers' files that a build of the base gets."""
    named = parse_base(base)
    folder.mkdir()
    image = find_container_image(named)
    with fetched_layers(named, image, folder, plain_access, lambda _: None) as layers:
        digests = [sha256((folder / each.path).read_bytes()) for each in layers]
    assert [each.diff_id for each in layers] == [sha256(each) for each in LAYERS]
    assert list(folder.iterdir()) == []
    return digests


def test_layers_of_a_registry_are_fetched_once_and_checked_at_each_use(tmp_path: Path, port: int, cache: Path) -> None:
    image = make_image(LAYERS)
    base = f"oci:localhost:{port}/team/app:3"
    push(image, base.removeprefix("oci:"), tmp_path)
    assert find_container_image(parse_base(base)).digest == image.digest
    digests = contents(base, tmp_path / "first")
    assert {path.name for path in cache.iterdir()} == {"lock", *(each.replace(":", "-") for each in digests)}
    for blob in (tmp_path / "registry/data").rglob("blobs/sha256/*/*/data"):
        if sha256(blob.read_bytes()) in digests:
            blob.unlink()
    assert contents(base, tmp_path / "second") == digests
    kept = cache / digests[0].replace(":", "-")
    kept.write_bytes(b"x" * kept.stat().st_size)
    with pytest.raises(TransferError):
        contents(base, tmp_path / "third")


def test_recipe_can_name_the_digest_beside_a_tag(tmp_path: Path, port: int, cache: Path) -> None:
    image, newer = make_image(LAYERS), make_image([*LAYERS, layer(Member("c"))])
    name = f"localhost:{port}/team/app:3"
    push(image, name, tmp_path)
    pinned = f"oci:{name}@{image.digest}"
    shutil.rmtree(cache, ignore_errors=True)
    push(newer, name, tmp_path)
    assert find_container_image(parse_base(f"oci:{name}")).digest == newer.digest
    assert find_container_image(parse_base(pinned)).digest == image.digest
    assert str(parse_base(f"oci:{name}").pin(image.digest)) == pinned


def test_registry_that_does_not_have_the_image_is_said(port: int) -> None:
    with pytest.raises(TransferError) as caught:
        find_container_image(parse_base(f"oci:localhost:{port}/team/none:1"))
    assert "team/none" in caught.value.message
