"""Push to and pull from a real registry: by http on loopback, by TLS, with a login, and with other programs."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from profiles.errors import (
    ImageExistsError,
    NotInRegistryError,
    ReferenceInvalidError,
    RegistryRefusedError,
    TransferError,
)
from profiles.exchange.artifact import SIF_CONFIG, SIF_LAYER, Artifact, write_manifest
from profiles.exchange.foreign_image import ForeignName
from profiles.exchange.layer_writer import write_layer
from profiles.exchange.pull import Pulled, pull_image
from profiles.exchange.push import push_image
from profiles.exchange.referrers import attach, list_referrers
from profiles.exchange.runnable import make_runnable, write_archive
from profiles.image.store import Image, Store, verify_image
from profiles.oci.descriptor import OCI_MANIFEST, Descriptor
from profiles.oci.reference import ImageReference
from profiles.oci.registry_access import RegistryAccess
from profiles.oci.registry_client import RegistryClient
from tests.deadlines import DEADLINE_S
from tests.registry_server import PASSWORD, USER, make_authority, running_registry, write_login
from tests.small_images import SESSION_FILES, publish_small_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NO_LOGINS = RegistryAccess(login_files=())


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry without TLS and without logins; `localhost:PORT`."""
    with running_registry(tmp_path_factory.mktemp("registry")) as port:
        yield f"localhost:{port}"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    folder = tmp_path_factory.mktemp("images")
    return publish_small_image(Store(folder / "store"), folder / "work", "1.0+b1", filling=100_000)


def pull(name: str, store: Path, access: RegistryAccess = NO_LOGINS, **foreign: str) -> Pulled:
    return pull_image(
        ImageReference.parse(name), store=Store(store), access=access, foreign_name=ForeignName(**foreign)
    )


def test_pulled_image_is_the_pushed_one_byte_for_byte(registry: str, image: Image, tmp_path: Path) -> None:
    pushed = push_image(image, ImageReference.parse(f"{registry}/team/whole"), access=NO_LOGINS)
    assert str(pushed.reference) == f"{registry}/team/whole:1.0_b1"
    assert pushed.attached == ["image.json", "profile.yaml", "packages.txt", "provenance.json"]
    got = pull(f"{registry}/team/whole:1.0_b1", tmp_path / "store")
    assert (got.is_new, got.digest, got.missing) == (True, pushed.digest, [])
    assert (got.image.name, got.image.version, got.image.digest) == ("small", "1.0+b1", image.digest)
    verify_image(got.image)
    for name in ("image.json", "profile.yaml", "packages.txt"):
        assert (got.image.directory / name).read_bytes() == (image.directory / name).read_bytes()
    assert pushed.digest in (got.image.directory / "build.log").read_text()
    assert sorted(path.name for path in (tmp_path / "store/small").iterdir()) == ["1.0+b1"]


def test_signature_and_what_it_covers_travel_byte_for_byte(registry: str, tmp_path: Path) -> None:
    signed = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", "3")
    (signed.directory / "signature.json").write_text('{"not": "checked here",  "ä": 1}\n')
    push_image(signed, ImageReference.parse(f"{registry}/team/signed"), access=NO_LOGINS)
    got = pull(f"{registry}/team/signed:3", tmp_path / "store").image
    for name in ("signature.json", "image.json"):
        assert (got.directory / name).read_bytes() == (signed.directory / name).read_bytes()


def test_second_push_uploads_nothing_and_second_pull_finds_it_there(
    registry: str, image: Image, tmp_path: Path
) -> None:
    reference = ImageReference.parse(f"{registry}/team/again:x")
    first = push_image(image, reference, access=NO_LOGINS)
    second = push_image(image, reference, access=NO_LOGINS)
    assert (first.uploaded, second.uploaded, second.digest) == (True, False, first.digest)
    assert pull(f"{registry}/team/again:x", tmp_path / "store").is_new
    inode = (tmp_path / "store/small/1.0+b1/image.sif").stat().st_ino
    assert not pull(f"{registry}/team/again@{first.digest}", tmp_path / "store").is_new
    assert (tmp_path / "store/small/1.0+b1/image.sif").stat().st_ino == inode


def test_version_with_another_content_is_refused(registry: str, image: Image, tmp_path: Path) -> None:
    push_image(image, ImageReference.parse(f"{registry}/team/other:x"), access=NO_LOGINS)
    store = Store(tmp_path / "store")
    mine = publish_small_image(store, tmp_path / "work", "1.0+b1", filling=10)
    with pytest.raises(ImageExistsError, match=r"small@1\.0\+b1 is published in .* with another content"):
        pull(f"{registry}/team/other:x", tmp_path / "store")
    verify_image(mine)


def test_tag_of_another_image_moves_only_if_asked_to(registry: str, image: Image, tmp_path: Path) -> None:
    reference = ImageReference.parse(f"{registry}/team/tags:stable")
    first = push_image(image, reference, access=NO_LOGINS)
    newer = publish_small_image(Store(tmp_path / "store"), tmp_path / "work", "2")
    with pytest.raises(ImageExistsError, match="is another image already"):
        push_image(newer, reference, access=NO_LOGINS)
    with RegistryClient(reference, NO_LOGINS) as client:
        assert client.manifest("stable").digest == first.digest
    moved = push_image(newer, reference, access=NO_LOGINS, move_tag=True)
    with RegistryClient(reference, NO_LOGINS) as client:
        assert client.manifest("stable").digest == moved.digest


def test_artefact_has_the_media_types_of_apptainer_and_the_digest_of_the_sif(registry: str, image: Image) -> None:
    push_image(image, ImageReference.parse(f"{registry}/team/types:1"), access=NO_LOGINS)
    manifest = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{registry}/team/types:1")
    assert manifest["config"]["mediaType"] == SIF_CONFIG
    (layer,) = manifest["layers"]
    assert (layer["mediaType"], layer["digest"], layer["size"]) == (SIF_LAYER, image.digest, image.size)


def test_files_beside_the_image_are_attached_and_what_others_attached_stays(registry: str, image: Image) -> None:
    reference = ImageReference.parse(f"{registry}/team/attached:1")
    (image.directory / "sbom.cdx.json").write_text('{"bomFormat": "CycloneDX"}')
    try:
        pushed = push_image(image, reference, access=NO_LOGINS)
    finally:
        (image.directory / "sbom.cdx.json").unlink()
    with RegistryClient(reference, NO_LOGINS) as client:
        found = {each.artifact_type: each for each in list_referrers(client, pushed.digest)}
        assert set(found) == {
            "application/vnd.berth.description.v1+json",
            "application/vnd.berth.recipe.v1+yaml",
            "application/vnd.berth.packages.v1+text",
            "application/vnd.cyclonedx+json",
            "application/vnd.in-toto+json",
        }
        sbom = client.manifest(found["application/vnd.cyclonedx+json"].digest).data
        assert sbom["subject"]["digest"] == pushed.digest
        others = client.push_bytes("application/x.others", b"not Berth's")
        attach(client, client.manifest(pushed.digest).descriptor, [others])
        push_image(image, reference, access=NO_LOGINS)  # without the SBOM: another manifest
        push_image(image, reference, access=NO_LOGINS)
        kept = [each.artifact_type for each in list_referrers(client, pushed.digest)]
    assert sorted(kept) == sorted([*found, "application/x.others"])


def test_image_that_another_program_has_copied_is_whole(registry: str, image: Image, tmp_path: Path) -> None:
    """skopeo copies manifest, layer and configuration, and nothing that is attached."""
    push_image(image, ImageReference.parse(f"{registry}/team/copied:1"), access=NO_LOGINS)
    with running_registry(tmp_path) as port:
        copy = ["skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        places = [f"docker://{registry}/team/copied:1", f"docker://localhost:{port}/mirror:1"]
        subprocess.run([*copy, *places], check=True, capture_output=True, timeout=DEADLINE_S)
        got = pull(f"localhost:{port}/mirror:1", tmp_path / "store")
    assert got.missing == ["packages.txt"]
    assert got.image.profile == image.profile


def test_container_image_is_refused_in_words(registry: str, image: Image, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    layer = write_layer(tmp_path / "tree", tmp_path / "layer", DEADLINE_S)
    write_archive(make_runnable(image, layer, {}, "amd64"), tmp_path / "x.tar", "1")
    source = f"oci-archive:{tmp_path}/x.tar"
    copy = ["skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{registry}/team/container:1"]
    subprocess.run(copy, check=True, capture_output=True, timeout=DEADLINE_S)
    with pytest.raises(TransferError, match="is a container image in layers, not an image that Berth or Apptainer"):
        pull(f"{registry}/team/container:1", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_sif_without_a_recipe_gets_name_and_version_from_the_registry(
    registry: str, image: Image, tmp_path: Path
) -> None:
    """As `apptainer push oras://` leaves it: an empty configuration."""
    push_plain_sif(f"{registry}/team/small:1.0_b1", image)
    with pytest.raises(ReferenceInvalidError, match="gives no name and version"):
        pull(f"{registry}/team/small:1.0_b1", tmp_path / "store")
    got = pull(f"{registry}/team/small:1.0_b1", tmp_path / "store", version="1.0+b1")
    assert (got.image.name, got.image.version, got.image.digest) == ("small", "1.0+b1", image.digest)
    assert str(got.image.profile.base).startswith("sif:")
    assert got.digest in got.image.profile.description


def test_sif_in_which_no_session_can_run_is_refused(registry: str, tmp_path: Path) -> None:
    files = {name: text for name, text in SESSION_FILES.items() if "sshd" not in name}
    image = publish_small_image(Store(tmp_path / "from"), tmp_path / "work", files=files)
    push_plain_sif(f"{registry}/team/nosshd:1", image)
    with pytest.raises(TransferError, match="has no /usr/sbin/sshd, which every session needs"):
        pull(f"{registry}/team/nosshd:1", tmp_path / "store")
    assert not list((tmp_path / "store").glob("*/*"))


def test_unknown_name_and_tag_are_told(registry: str, tmp_path: Path) -> None:
    with pytest.raises(NotInRegistryError, match="has no image 7 in team/nothing"):
        pull(f"{registry}/team/nothing:7", tmp_path / "store")


def test_registry_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"localhost:1 cannot be reached"):
        pull("localhost:1/team/small:1", tmp_path / "store")


def test_tls_needs_the_authority_of_the_site(image: Image, tmp_path: Path) -> None:
    site, other = make_authority(tmp_path, "site"), make_authority(tmp_path, "other")
    with running_registry(tmp_path, authority=site) as port:
        name = f"localhost:{port}/team/tls:1"
        push_image(image, ImageReference.parse(name), access=RegistryAccess(ca=site.ca, login_files=()))
        for wrong in (NO_LOGINS, RegistryAccess(ca=other.ca, login_files=())):
            with pytest.raises(TransferError, match=r"the certificate of localhost:\d+ is not valid") as caught:
                pull(name, tmp_path / "store", wrong)
            assert "profiles.registries" in caught.value.hint
        assert pull(name, tmp_path / "store", RegistryAccess(ca=site.ca, login_files=())).is_new


def test_login_is_that_of_the_users_file(image: Image, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    access = RegistryAccess(login_files=(file,))
    with running_registry(tmp_path, login=True) as port:
        name = f"localhost:{port}/team/private:1"
        with pytest.raises(RegistryRefusedError, match=r"localhost:\d+ wants a login") as missing:
            push_image(image, ImageReference.parse(name), access=access)
        assert "podman login" in missing.value.hint
        write_login(file, f"localhost:{port}", "wrong")
        with pytest.raises(RegistryRefusedError, match="did not accept the login of alice"):
            push_image(image, ImageReference.parse(name), access=access)
        logged_in = ["skopeo", "login", "--tls-verify=false", "--authfile", str(file), "-u", USER, "--password-stdin"]
        subprocess.run(
            [*logged_in, f"localhost:{port}"],
            input=PASSWORD.encode(),
            check=True,
            capture_output=True,
            timeout=DEADLINE_S,
        )
        push_image(image, ImageReference.parse(name), access=access)
        assert pull(name, tmp_path / "store", access).is_new


def push_plain_sif(name: str, image: Image) -> None:
    """Push a SIF as Apptainer does, with nothing of Berth's."""
    reference = ImageReference.parse(name)
    layer = Descriptor(SIF_LAYER, image.digest, image.size, {"org.opencontainers.image.title": "image.sif"})
    with RegistryClient(reference, NO_LOGINS) as client:
        client.push_blob(layer, image.path)
        config = client.push_bytes(SIF_CONFIG, b"{}")
        client.push_manifest(write_manifest(Artifact(layer, config), {}), OCI_MANIFEST, reference.tag)


def skopeo(*arguments: str) -> Any:  # noqa: ANN401 - any JSON
    done = subprocess.run(["skopeo", *arguments], check=True, capture_output=True, timeout=DEADLINE_S)
    return json.loads(done.stdout)
