"""A registry whose certificate is by the site's own authority: features, base images and Dockerfiles from it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from profiles.build.buildah import Buildah
from profiles.build.container_image import find_container_image
from profiles.build.image_store import layer_store
from profiles.build.workspace import workspace
from profiles.devcontainer.config import read_dev_config
from profiles.devcontainer.feature_registry import FeatureRegistries
from profiles.devcontainer.plan import load_image_part
from profiles.errors import ProfilesError
from profiles.oci.descriptor import OCI_MANIFEST, Descriptor
from profiles.oci.documents import OCI_CONFIG, OCI_LAYER
from profiles.oci.reference import ImageReference
from profiles.oci.registry_access import RegistryAccess, SiteRegistries, authorities_of
from profiles.oci.registry_client import RegistryClient
from profiles.recipe.base import parse_base
from tests.buildah_machine import build_machine, dockerfile, write_base
from tests.component.profiles.test_registry_features import publish
from tests.container_images import make_image
from tests.registry_server import make_authority, running_registry
from tests.unit.profiles.dev_features import write_feature

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.buildah_machine import BuildMachine


@pytest.fixture(scope="module")
def machine() -> Iterator[BuildMachine]:
    with build_machine() as made:
        yield made


@pytest.fixture
def registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SiteRegistries]:
    """The settings of a site with one registry with TLS, which has an image and a feature."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "registry").mkdir()
    authority = make_authority(tmp_path, "site")
    with running_registry(tmp_path / "registry", authority=authority) as port:
        host = f"localhost:{port}"
        made = SiteRegistries({host: RegistryAccess(ca=authority.ca)})
        write_base(tmp_path)
        image = make_image([(tmp_path / "base.tar").read_bytes()])
        named = ImageReference.parse(f"{host}/team/base:1")
        with RegistryClient(named, made(named)) as client:
            for digest, content in image.blobs.items():
                if content != image.manifest:
                    (tmp_path / "blob").write_bytes(content)
                    kind = OCI_CONFIG if content == image.config else OCI_LAYER
                    client.push_blob(Descriptor(kind, digest, len(content)), tmp_path / "blob")
            client.push_manifest(image.manifest, OCI_MANIFEST, "1")
        feature = write_feature(tmp_path / "tool", "echo tool >/order\n")
        publish(feature, f"{host}/features/tool", "1", access=made)
        yield made


def host_of(registries: SiteRegistries) -> str:
    [host] = registries.settings
    return host


def test_feature_and_image_come_from_a_registry_of_the_sites_authority(
    machine: BuildMachine, registries: SiteRegistries, tmp_path: Path
) -> None:
    host = host_of(registries)
    folder = tmp_path / "repository/.devcontainer"
    folder.mkdir(parents=True)
    data = {"image": f"{host}/team/base:1", "features": {f"{host}/features/tool:1": {}}}
    (folder / "devcontainer.json").write_text(json.dumps(data))
    config = read_dev_config(folder / "devcontainer.json")
    with pytest.raises(ProfilesError, match="certificate"):
        load_image_part(config, FeatureRegistries())
    part = load_image_part(config, FeatureRegistries(registries))
    assert [each.name for each in part.features] == [f"{host}/features/tool"]
    base = parse_base(f"oci:{host}/team/base:1")
    with workspace(machine.parent) as room, layer_store(machine.parent, room / "spare") as store:
        buildah = Buildah(room, store, machine.run, authorities_of(registries))
        digest = find_container_image(base, registries).digest
        assert buildah.add_features(buildah.pull(base, digest), part.features)


def test_dockerfile_starts_from_a_registry_of_the_sites_authority(
    machine: BuildMachine, registries: SiteRegistries, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    text = f"ARG BASE={host_of(registries)}/team/base:1\nFROM ${{BASE}}\nENV PATH=/bin\nRUN echo built\n"
    build = dockerfile(context, text)
    with machine.buildah() as buildah, pytest.raises(ProfilesError, match="certificate"):
        buildah.build(build)
    with workspace(machine.parent) as room, layer_store(machine.parent, room / "spare") as store:
        Buildah(room, store, machine.run, authorities_of(registries)).build(build)
    assert "built" in machine.lines


def test_authority_that_cannot_be_read_is_named(machine: BuildMachine, tmp_path: Path) -> None:
    said = r"the authority of a\.example, .*none\.pem, cannot be read"
    with layer_store(tmp_path, tmp_path / "spare") as store, pytest.raises(ProfilesError, match=said):
        Buildah(tmp_path, store, machine.run, {"a.example": tmp_path / "none.pem"})
