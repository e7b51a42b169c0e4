"""Features of dev containers in a real registry: fetched, locked, and there when the registry is not."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from profiles.devcontainer.config import read_dev_config
from profiles.devcontainer.feature_registry import FEATURE_LAYER, FeatureRegistries
from profiles.devcontainer.lock_file import make_lock, read_lock, require_locked, write_lock
from profiles.devcontainer.plan import load_image_part
from profiles.dockerfile.spec import DockerfileBuild
from profiles.errors import ProfilesError
from profiles.oci.descriptor import OCI_MANIFEST
from profiles.oci.reference import ImageReference
from profiles.oci.registry_access import AccessTo, plain_access
from profiles.oci.registry_client import RegistryClient
from tests.buildah_machine import FROM_BASE, BuildMachine, build_machine, file_in, write_base
from tests.registry_server import running_registry
from tests.unit.profiles.dev_features import write_feature

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.devcontainer.image_part import ImagePart

CONFIG_TYPE = "application/vnd.devcontainers"


def publish(
    folder: Path, name: str, tag: str, *, layer_type: str = FEATURE_LAYER, access: AccessTo = plain_access
) -> None:
    """Publish the feature in `folder` as the reference implementation does."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(folder, ".")
    reference = ImageReference.parse(name)
    with RegistryClient(reference, access(reference)) as client:
        layer = client.push_bytes(layer_type, archive.getvalue())
        config = client.push_bytes(CONFIG_TYPE, b"{}")
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.as_json(),
            "layers": [layer.as_json()],
        }
        client.push_manifest(json.dumps(manifest).encode(), OCI_MANIFEST, tag)


def load(repository: Path) -> ImagePart:
    return load_image_part(read_dev_config(repository / ".devcontainer/devcontainer.json"), FeatureRegistries())


def build(machine: BuildMachine, part: ImagePart) -> str:
    assert isinstance(part.base, DockerfileBuild)
    with machine.buildah() as buildah:
        return file_in(buildah.export(buildah.add_features(buildah.build(part.base), part.features)), "order")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "repository/.devcontainer"
    folder.mkdir(parents=True)
    write_base(folder)
    (folder / "Dockerfile").write_text(f"{FROM_BASE}ENV PATH=/bin\n")
    (tmp_path / "registry").mkdir()
    return folder.parent


def test_local_feature_depends_on_one_of_a_registry_which_is_gone_the_second_time(
    tmp_path: Path, repository: Path
) -> None:
    options = {"version": {"type": "string", "default": "20"}}
    node = write_feature(tmp_path / "node", 'echo "node $VERSION" >>/order\n', version="1.4.2", options=options)
    config = repository / ".devcontainer/devcontainer.json"
    with build_machine() as machine:
        with running_registry(tmp_path / "registry") as port:
            name = f"localhost:{port}/team/node"
            publish(node, name, "1")
            write_feature(config.parent / "own", "echo own >>/order\n", dependsOn={f"{name}:1": {"version": "22"}})
            config.write_text(json.dumps({"build": {"dockerfile": "Dockerfile"}, "features": {"./own": {}}}))
            part = load(repository)
            assert build(machine, part) == "node 22\nown\n"
            lock = make_lock(part.nodes)
            write_lock(lock, config)
            publish(write_feature(tmp_path / "node", "echo another >>/order\n", version="1.5.0"), name, "1")
            again = load(repository)
            assert again.key("") == part.key("")
        assert build(machine, load(repository)) == "node 22\nown\n"
        assert machine.ran == []
    require_locked(read_lock(config), make_lock(load(repository).nodes), config)
    config.with_name("devcontainer-lock.json").unlink()
    with pytest.raises(ProfilesError, match="localhost"):
        load(repository)


def test_image_that_is_no_feature_is_refused(tmp_path: Path, repository: Path) -> None:
    with running_registry(tmp_path / "registry") as port:
        name = f"localhost:{port}/team/image"
        publish(write_feature(tmp_path / "image"), name, "1", layer_type="application/vnd.oci.image.layer.v1.tar")
        data = {"build": {"dockerfile": "Dockerfile"}, "features": {f"{name}:1": {}}}
        (repository / ".devcontainer/devcontainer.json").write_text(json.dumps(data))
        with pytest.raises(ProfilesError, match="is no feature"):
            load(repository)
    assert list((tmp_path / "cache/berth/features").iterdir()) == []
