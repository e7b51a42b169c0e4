"""Images as container images: other engines run them, with their environment, and owners and modes are right."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from profiles.errors import DamagedImageError, ImageExistsError
from profiles.exchange.export import export_image
from profiles.image.store import Image, Store
from profiles.oci.reference import ImageReference
from profiles.oci.registry_access import RegistryAccess
from tests.deadlines import DEADLINE_S
from tests.registry_server import running_registry
from tests.small_images import add_shell, publish_small_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users, and runs buildah as root")

NO_LOGINS = RegistryAccess(login_files=())
FILES = {
    ".singularity.d/env/90-environment.sh": "export WHERE=/opt/own\nexport PATH=$WHERE:$PATH HOME=/nowhere\n",
    "etc/resolv.conf": "",
    "etc/hosts": "",
    "opt/own/hello": '#!/bin/sh\necho "hello from $WHERE"\n',
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """An image with a shell, some owners and modes, a hard link and a link."""
    folder = tmp_path_factory.mktemp("images")
    tree = folder / "work/tree"

    def fill() -> None:
        add_shell(tree)
        (tree / "opt/own/hello").chmod(0o755)
        (tree / "opt/own/secret").write_text("x")
        (tree / "opt/own/secret").chmod(0o000)
        os.link(tree / "opt/own/hello", tree / "opt/own/same")
        (tree / "opt/own/link").symlink_to("hello")
        (tree / "opt/tool").mkdir(mode=0o2750)
        (tree / "opt/tool").chmod(0o2750)
        os.chown(tree / "opt/tool", 42, 4242)

    return publish_small_image(Store(folder / "store"), folder / "work", files=FILES, fill=fill)


@pytest.fixture(scope="module")
def archive(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    export_image(image, folder / "small.tar", access=NO_LOGINS, work=folder)
    assert [path.name for path in folder.iterdir()] == ["small.tar"]
    return folder / "small.tar"


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[list[str]]:
    """buildah with a store of its own."""
    words = ["buildah", "--root", f"{tmp_path}/root", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]
    yield words
    subprocess.run([*words, "rm", "--all"], check=False, capture_output=True, timeout=DEADLINE_S)


def output_of(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_buildah_runs_the_archive_in_its_environment(archive: Path, buildah: list[str]) -> None:
    container = output_of(*buildah, "from", "--quiet", f"oci-archive:{archive}").strip()
    ran = output_of(*buildah, "run", "--isolation", "chroot", container, "--", "hello")
    assert ran == "hello from /opt/own\n"
    described = json.loads(output_of(*buildah, "inspect", container))["OCIv1"]["config"]
    assert described["Cmd"] == ["/bin/bash"]
    environment = dict(each.split("=", 1) for each in described["Env"])
    assert environment.keys() == {"PATH", "WHERE"}  # not HOME, which is the user's
    assert environment["PATH"].startswith("/opt/own:/usr/local/sbin:")
    assert described["Labels"]["org.opencontainers.image.version"] == "1"


def test_owners_modes_and_links_are_those_of_the_image(archive: Path, image: Image) -> None:
    with tarfile.open(archive) as outer:
        index = json.load(member(outer, "index.json"))
        manifest = json.load(member(outer, blob(index["manifests"][0]["digest"])))
        config = json.load(member(outer, blob(manifest["config"]["digest"])))
        with tarfile.open(fileobj=member(outer, blob(manifest["layers"][0]["digest"])), mode="r:gz") as layer:
            entries = {entry.name: entry for entry in layer}
    tool, secret = entries["./opt/tool"], entries["./opt/own/secret"]
    assert (tool.uid, tool.gid, tool.mode) == (42, 4242, 0o2750)
    assert (secret.uid, secret.mode, secret.size) == (0, 0o000, 1)
    links = {entry.name: entry.linkname for entry in entries.values() if entry.islnk() or entry.issym()}
    assert links["./opt/own/link"] == "hello"
    assert {links.get("./opt/own/same"), links.get("./opt/own/hello")} & {"./opt/own/hello", "./opt/own/same"}
    assert not [name for name in entries if name.startswith("./run/berth-build")]
    assert config["config"]["Labels"]["berth.digest"] == image.digest
    assert config["architecture"] == "amd64"


def member(archive: tarfile.TarFile, name: str) -> tarfile.ExFileObject:
    found = archive.extractfile(name)
    assert isinstance(found, tarfile.ExFileObject)
    return found


def blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def test_two_exports_have_the_same_digest(image: Image, archive: Path, tmp_path: Path) -> None:
    again = export_image(image, tmp_path / "again.tar", access=NO_LOGINS, work=tmp_path)
    assert again.digest == json.loads(output_of("skopeo", "inspect", f"oci-archive:{archive}"))["Digest"]


def test_export_to_a_registry_is_what_skopeo_reads_there(image: Image, tmp_path: Path) -> None:
    with running_registry(tmp_path) as port:
        name = f"localhost:{port}/laptops/small"
        exported = export_image(image, ImageReference.parse(name), access=NO_LOGINS, work=tmp_path)
        assert exported.where == f"{name}:1"
        read = json.loads(output_of("skopeo", "inspect", "--tls-verify=false", f"docker://{name}:1"))
        assert (read["Digest"], read["Architecture"]) == (exported.digest, "amd64")
        with pytest.raises(ImageExistsError, match="is an image already"):
            export_image(image, ImageReference.parse(name), access=NO_LOGINS, work=tmp_path)
        export_image(image, ImageReference.parse(name), access=NO_LOGINS, work=tmp_path, move_tag=True)


def test_file_that_exists_stays(image: Image, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("mine", "link"):
        with pytest.raises(ImageExistsError, match="exists"):
            export_image(image, tmp_path / name, access=NO_LOGINS, work=tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_image_that_was_changed_is_not_exported(tmp_path: Path) -> None:
    image = publish_small_image(Store(tmp_path / "store"), tmp_path / "work")
    content = image.path.read_bytes()
    image.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedImageError):
        export_image(image, tmp_path / "x.tar", access=NO_LOGINS, work=tmp_path)
    assert not (tmp_path / "x.tar").exists()
