"""The rules for signatures at the door of a store: `berth profile pull` from a real registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles.exchange.push import push_image
from profiles.image.signature_file import SIGNATURE
from profiles.image.store import Store, file_digest
from profiles.oci.reference import ImageReference
from profiles.oci.registry_access import RegistryAccess
from tests.deadlines import DEADLINE_S
from tests.registry_server import running_registry
from tests.small_images import publish_small_image

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[3]
LABEL = "small@1"


def berth(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "BERTH_CONFIG": str(folder / "config.yaml"),
        "HOME": str(folder),
        "PYTHONPATH": str(CHECKOUT),
    }
    argv = [sys.executable, "-m", "broker.cli", "profile", *words]
    return subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def configure(folder: Path, *, required: bool, profiles: str = "*") -> None:
    """Accept signatures of the key team.pem for these profiles; the store is `store`."""
    signers = [{"name": "team", "public_key": str(folder / "team.pem"), "profiles": [profiles]}]
    settings = {"stores": [str(folder / "store")], "require_signature": required, "signers": signers}
    (folder / "config.yaml").write_text(json.dumps({"mode": "personal", "profiles": settings}))


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder with keys, and a registry with the image: signed, unsigned, changed after it was signed, and bare."""
    folder = tmp_path_factory.mktemp("signed")
    for line in ("genpkey -algorithm ed25519 -out team.key", "pkey -in team.key -pubout -out team.pem"):
        subprocess.run(["openssl", *line.split()], cwd=folder, check=True, timeout=DEADLINE_S, capture_output=True)
    configure(folder, required=False)
    with running_registry(folder) as port:
        registry = f"localhost:{port}"
        image = publish_small_image(Store(folder / "store"), folder / "work")
        push_image(image, ImageReference.parse(f"{registry}/unsigned:1"), access=RegistryAccess())
        assert berth(folder, "sign", LABEL, "--key", "team.key").returncode == 0
        push_image(image, ImageReference.parse(f"{registry}/signed:1"), access=RegistryAccess())
        description = image.directory / "image.json"
        description.write_text(description.read_text().replace('"WHERE": "here"', '"WHERE": "there"'))
        recipe = image.directory / "profile.yaml"
        recipe.write_text(recipe.read_text().replace("WHERE: here", "WHERE: there"))
        push_image(image, ImageReference.parse(f"{registry}/changed:1"), access=RegistryAccess())
        yield folder, registry


@pytest.fixture
def place(pushed: tuple[Path, str], tmp_path: Path) -> Path:
    """A folder with the public key, and no image yet."""
    shutil.copy(pushed[0] / "team.pem", tmp_path)
    return tmp_path


def test_signed_image_enters_a_store_that_requires_signatures(pushed: tuple[Path, str], place: Path) -> None:
    configure(place, required=True)
    done = berth(place, "pull", f"{pushed[1]}/signed:1", "--json")
    assert done.returncode == 0, done.stderr
    directory = place / "store/small/1"
    assert (directory / SIGNATURE).exists()
    assert json.loads(done.stdout)["digest"] == file_digest(directory / "image.sif")


@pytest.mark.parametrize(
    ("name", "profiles", "message"),
    [
        ("unsigned", "*", "small@1 is not signed"),
        ("signed", "other-*", "may not sign profiles of this name"),
        ("changed", "*", "image.json was changed"),
    ],
)
def test_image_whose_signature_does_not_count_is_refused_and_nothing_is_left(
    pushed: tuple[Path, str], place: Path, name: str, profiles: str, message: str
) -> None:
    configure(place, required=True, profiles=profiles)
    done = berth(place, "pull", f"{pushed[1]}/{name}:1")
    assert (done.returncode, message in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not list((place / "store").glob("**/*.sif"))


def test_without_the_requirement_only_a_contradiction_is_refused(pushed: tuple[Path, str], place: Path) -> None:
    configure(place, required=False)
    changed = berth(place, "pull", f"{pushed[1]}/changed:1")
    assert (changed.returncode, "image.json was changed" in changed.stderr) == (1, True), changed.stderr
    assert berth(place, "pull", f"{pushed[1]}/unsigned:1").returncode == 0
