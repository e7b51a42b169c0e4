"""The inventory of a real Debian: made by mmdebstrap, with apt packages, two virtual environments, a `--user`
installation, a global npm package and a copied program.
"""

from __future__ import annotations

import json
import subprocess
import time
import zipfile
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from profiles.build import namespace
from profiles.build.inventory_step import inventory_of, make_inventory
from profiles.build.steps import Steps
from profiles.build.tree import ImageTree
from profiles.errors import BuildError
from profiles.image.store import Image
from profiles.recipe.spec import parse_profile
from tests.deadlines import DEADLINE_S
from tests.fakes.image_tree import debian_tree, python_package
from tests.fakes.sif import SQUASHFS_OFFSET, sif_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from profiles.inventory.model import Inventory
    from profiles.recipe.spec import Profile

SECONDS = 300.0
LABELS = {"berth.created": "2026-12-01T09:00:00Z", "berth.builder": "berth 1.0"}
CONTENT = """
python3 -m venv /opt/a
/opt/a/bin/pip install --no-index /srv/Al_Pha-1.0-py3-none-any.whl
python3 -m venv --without-pip /opt/b
/opt/a/bin/pip --python /opt/b install --no-index /srv/beta-2.0.post1-py3-none-any.whl
HOME=/root pip3 install --user --break-system-packages --no-index /srv/gamma-3.0-py3-none-any.whl
cp /bin/ls /opt/copied
rm /srv/*.whl
"""


def _steps(log: BytesIO) -> Steps:
    return Steps(["make", "inventory"], log, lambda _: None, time.monotonic() + SECONDS)


def _wheel(folder: Path, name: str, version: str) -> None:
    """A wheel with a module, and a program that pip makes of an entry point."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name.lower()}.py", "def main(): pass\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{name.lower()} = {name.lower()}:main\n")
        wheel.writestr(f"{info}/RECORD", "")


def _install_npm_package(tree: Path, folder: Path) -> None:
    """A global package, by the npm of this machine, which needs no network for one without dependencies."""
    source = folder / "source"
    source.mkdir()
    (source / "package.json").write_text(json.dumps({"name": "@lab/delta", "version": "4.0.0", "bin": "delta.js"}))
    (source / "delta.js").write_text("#!/usr/bin/env node\n")
    for words in (["pack", str(source)], ["install", "--global", "--offline", "--prefix", f"{tree}/usr/local"]):
        archives = [str(path) for path in folder.glob("*.tgz")]
        command = ["npm", *words, *archives]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return parse_profile("name: mine\nversion: 1\nbase: debian:trixie\n", tmp_path_factory.mktemp("p") / "p.yaml")


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ImageTree, Path]]:
    """The tree, and the folder of its build."""
    folder = tmp_path_factory.mktemp("debian")
    tree = ImageTree(folder, _steps(BytesIO()).run)
    try:
        tree.debian("trixie", ["python3-pip", "python3-six", "python3-venv"])
        for name, version in (("Al_Pha", "1.0"), ("beta", "2.0.post1"), ("gamma", "3.0")):
            _wheel(tree.path / "srv", name, version)
        tree.post(CONTENT)
        (folder / "npm").mkdir()
        _install_npm_package(tree.path, folder / "npm")
        yield tree, folder
    finally:
        namespace.remove_as_root(tree.path)


@pytest.fixture(scope="module")
def inventory(debian: tuple[ImageTree, Path], profile: Profile) -> Inventory:
    tree, folder = debian
    (folder / "stage").mkdir()
    return make_inventory(tree, folder, folder / "stage", profile, labels=LABELS, run=_steps(BytesIO()).run)


def _listed(inventory: Inventory, kind: str) -> set[tuple[str, str]]:
    return {(each.name, each.version) for each in inventory.packages if each.kind.value == kind}


def test_debian_packages_are_those_of_dpkg(debian: tuple[ImageTree, Path], inventory: Inventory) -> None:
    query = ["dpkg-query", "--admindir", f"{debian[0].path}/var/lib/dpkg", "-W", "-f"]
    form = "${Package} ${Version} ${source:Package} ${source:Version}\n"
    done = subprocess.run([*query, form], capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    ours = {
        f"{each.name} {each.version} {each.source} {each.source_version}"
        for each in inventory.packages
        if each.kind.value == "deb"
    }
    assert ours == set(done.stdout.splitlines())
    assert len(ours) > 80
    assert inventory.system.suite == "trixie"


def test_python_and_npm_packages_are_found_wherever_they_are(inventory: Inventory) -> None:
    pypi = _listed(inventory, "pypi")
    assert {each for each in pypi if each[0] != "pip"} == {("al-pha", "1.0"), ("beta", "2.0.post1"), ("gamma", "3.0")}
    assert _listed(inventory, "npm") == {("@lab/delta", "4.0.0")}
    assert inventory.unread == ()


def test_only_the_copied_program_is_owned_by_no_package(inventory: Inventory) -> None:
    assert [each.path for each in inventory.executables] == ["/opt/copied"]


def test_image_gets_both_documents(debian: tuple[ImageTree, Path], inventory: Inventory) -> None:
    tree, folder = debian
    for name in ("sbom.cdx.json", "sbom.spdx.json"):
        content = (tree.path / "usr/share/berth" / name).read_bytes()
        assert content == (folder / "stage" / name).read_bytes()
        assert b"pkg:npm/%40lab/delta@4.0.0" in content
    assert inventory.origin.name == "mine"


def test_deleted_status_fails_the_step_and_publishes_no_empty_list(
    debian: tuple[ImageTree, Path], inventory: Inventory, profile: Profile, tmp_path: Path
) -> None:
    tree, folder = debian
    assert inventory.packages
    tree.post("mv /var/lib/dpkg/status /root/status")
    steps = _steps(BytesIO())
    try:
        with pytest.raises(BuildError, match="/var/lib/dpkg/status is missing") as caught, steps.step("inventory"):
            make_inventory(tree, folder, tmp_path, profile, labels=LABELS, run=steps.run)
    finally:
        tree.post("mv /root/status /var/lib/dpkg/status")
    assert caught.value.hint == "does the image still have the database of its package manager?"
    assert list(tmp_path.iterdir()) == []


def test_inventory_of_an_older_image_is_made_from_its_sif(tmp_path: Path, profile: Profile) -> None:
    """A folder without permissions is read too, as root of the namespace."""

    def run(argv: Sequence[str], env: Mapping[str, str]) -> str:
        done = subprocess.run(argv, env=env, check=True, capture_output=True, text=True, timeout=DEADLINE_S)
        return done.stdout

    (tmp_path / "build").mkdir()
    tree = ImageTree(tmp_path / "build", run)
    python_package(debian_tree(tree.path) / "opt/closed/site-packages", "six", "1.17.0")
    (tree.path / "opt/closed").chmod(0)
    sif = tmp_path / "image.sif"
    sif.write_bytes(sif_bytes(offset=SQUASHFS_OFFSET).ljust(SQUASHFS_OFFSET, b"\0") + tree.squash().read_bytes())
    image = Image("mine", "1", sif, "", sif.stat().st_size, 1.0, {}, profile, SQUASHFS_OFFSET)
    work = tmp_path / "work"
    work.mkdir()
    found, is_new = inventory_of(image, work)
    assert is_new
    assert [(each.name, each.version) for each in found.packages] == [("dpkg", "1.21.22"), ("six", "1.17.0")]
    assert list(work.iterdir()) == []
