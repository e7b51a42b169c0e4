"""`berth profile push`, `pull` and `export` with a real registry: results, messages and exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from profiles.image.store import Image, Store
from tests.fakes.command_line import command_line, run
from tests.registry_server import PASSWORD, make_authority, running_registry, write_login
from tests.small_images import add_shell, publish_small_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.registry_server import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), "site")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    """A registry with TLS by the site's authority, and a login."""
    with running_registry(tmp_path_factory.mktemp("registry"), authority=authority, login=True) as port:
        yield f"localhost:{port}"


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: str, authority: Authority) -> Iterator[Image]:
    """small@1 in the store, the site's authority in the configuration, and alice's login in her home."""
    made = publish_small_image(Store(tmp_path / "store"), tmp_path / "work")
    for variable in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / ".docker").mkdir()
    write_login(tmp_path / ".docker/config.json", registry, PASSWORD)
    with command_line(monkeypatch, tmp_path):
        config = tmp_path / "config.yaml"
        entry = f"profiles:\n  registries: [{{host: '{registry}', ca: {authority.ca}}}]\n"
        config.write_text(config.read_text().replace("profiles:\n", entry))
        yield made


def result(*words: str) -> dict[str, Any]:
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_image_goes_out_and_comes_back(image: Image, registry: str, tmp_path: Path) -> None:
    pushed = result("profile", "push", "small@1", f"{registry}/cli/small")
    assert (pushed["reference"], pushed["image_digest"]) == (f"{registry}/cli/small:1", image.digest)
    name = f"{registry}/cli/small@{pushed['digest']}"
    got = result("profile", "pull", name, "--store", str(tmp_path / "other"))
    assert (got["name"], got["version"], got["digest"], got["new"]) == ("small", "1", image.digest, True)
    assert got["reference"] == name
    again = run("profile", "pull", name, "--store", str(tmp_path / "other"))
    assert (again.exit_code, "was there already" in again.stderr) == (0, True)


def test_plain_output_names_the_image_by_its_digest(image: Image, registry: str) -> None:
    first = run("profile", "push", image.name, f"{registry}/cli/plain:x")
    assert first.stdout.startswith(f"{registry}/cli/plain:x@sha256:")
    second = run("profile", "push", image.name, f"{registry}/cli/plain:x")
    assert (second.stdout, "had the image already" in second.stderr) == (first.stdout, True)


@pytest.mark.usefixtures("image")
def test_export_writes_an_archive_and_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "shell"
    shell = publish_small_image(Store(tmp_path / "store"), folder, "7", fill=lambda: add_shell(folder / "tree"))
    made = result("profile", "export", "small@7", f"oci-archive:{tmp_path}/x.tar")
    assert made["target"] == f"oci-archive:{tmp_path}/x.tar"
    assert (tmp_path / "x.tar").stat().st_size > made["size"]
    assert made["image_digest"] == shell.digest
    again = run("profile", "export", "small@7", f"oci-archive:{tmp_path}/x.tar")
    assert (again.exit_code, "exists" in again.stderr) == (5, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["push", "small", "small:1"], 2, "has no registry"),
        (["push", "small", "https://r.example/a"], 2, "write it without https://"),
        (["push", "none", "REGISTRY/cli/x"], 3, "no profile is called none"),
        (["push", "small", f"REGISTRY/cli/x@sha256:{'0' * 64}"], 2, "which only the registry can give"),
        (["push", "small", "localhost:1/cli/x"], 1, "localhost:1 cannot be reached"),
        (["pull", "REGISTRY/cli/none:1"], 3, "has no image 1 in cli/none"),
        (["export", "small", "oci-archive:"], 2, "has no file"),
        (["export", "small", "docker-archive:x"], 2, "has no registry"),
        (["export", "small", "oci-archive:x", "--move-tag"], 2, "a file has no tag to move"),
    ],
)
@pytest.mark.usefixtures("image")
def test_what_cannot_be_done_ends_with_its_exit_code(registry: str, words: list[str], code: int, said: str) -> None:
    done = run("profile", *(word.replace("REGISTRY", registry) for word in words))
    assert (done.exit_code, said in done.stderr, "Traceback" in done.output) == (code, True, False), done.stderr


@pytest.mark.usefixtures("image")
def test_missing_login_and_occupied_tag_have_their_exit_codes(registry: str, tmp_path: Path) -> None:
    assert run("profile", "push", "small@1", f"{registry}/cli/codes:x").exit_code == 0
    publish_small_image(Store(tmp_path / "store"), tmp_path / "work2", "2", filling=100)
    assert run("profile", "push", "small@2", f"{registry}/cli/codes:x").exit_code == 5
    assert run("profile", "push", "small@2", f"{registry}/cli/codes:x", "--move-tag").exit_code == 0
    (tmp_path / ".docker/config.json").unlink()
    refused = run("profile", "push", "small@1", f"{registry}/cli/codes:y")
    assert (refused.exit_code, "wants a login" in refused.stderr) == (4, True)
