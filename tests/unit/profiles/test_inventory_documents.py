"""Inventories as CycloneDX and SPDX: valid for the official schemas, equal in content, and the same bytes each time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from profiles.inventory.collect import collect_inventory
from profiles.inventory.cyclonedx import as_cyclonedx
from profiles.inventory.cyclonedx_reader import read_inventory
from profiles.inventory.difference import ContentChange, compare_inventories
from profiles.inventory.inventory_worker import InventoryRequest, main
from profiles.inventory.model import (
    ImageOrigin,
    InstalledPackage,
    Inventory,
    LooseExecutable,
    OperatingSystem,
    PackageKind,
)
from profiles.inventory.purl import package_url
from profiles.inventory.spdx import as_spdx
from profiles.recipe.setting_difference import SettingChange, compare_settings
from profiles.recipe.spec import parse_profile
from tests.fakes.image_tree import ELF, ORIGIN, debian_tree, npm_package, paragraph, python_package, write

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.recipe.spec import Profile

DEBIAN = OperatingSystem("debian", "12", "bookworm")


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    tree = debian_tree(tmp_path / "tree", paragraph("libssl3", "1:3.0+a-1+b1", "Source: openssl (1:3.0+a-1)\n"))
    python_package(tree / "opt/a/site-packages", "six", "1.17.0")
    python_package(tree / "opt/b/site-packages", "six", "1.17.0")
    npm_package(tree / "opt/node_modules", "@types/node", "20.0.0")
    write(tree / "opt/node_modules/broken/package.json", "{}")
    write(tree / "opt/a \x1b", ELF, 0o755)
    return collect_inventory(tree, ORIGIN)


def _urls(document: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(each["name"], each.get("version", ""), each.get("purl", "")) for each in document["components"][1:]}


def test_both_documents_are_valid_and_name_the_same_set(inventory: Inventory, tmp_path: Path) -> None:
    cyclonedx, spdx = as_cyclonedx(inventory), as_spdx(inventory)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(cyclonedx) is None
    file = write(tmp_path / "sbom.spdx.json", spdx)
    assert validate_full_spdx_document(parse_file(str(file))) == []
    listed = {
        (
            each["name"],
            each.get("versionInfo", ""),
            next((reference["referenceLocator"] for reference in each.get("externalRefs", [])), ""),
        )
        for each in json.loads(spdx)["packages"][2:]
    }
    assert listed == _urls(json.loads(cyclonedx))
    assert len(listed) == 5


def test_document_without_a_base_digest_or_a_distribution_is_valid(inventory: Inventory, tmp_path: Path) -> None:
    bare = replace(inventory, origin=replace(ORIGIN, base="debian:sid", base_digest=""), system=OperatingSystem())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(as_cyclonedx(bare)) is None
    assert validate_full_spdx_document(parse_file(str(write(tmp_path / "a.spdx.json", as_spdx(bare))))) == []
    assert read_inventory(write(tmp_path / "a.cdx.json", as_cyclonedx(bare))) == bare


def test_document_is_read_back_as_it_was(inventory: Inventory, tmp_path: Path) -> None:
    assert inventory.unread
    assert inventory.executables
    text = as_cyclonedx(inventory)
    again = read_inventory(write(tmp_path / "sbom.cdx.json", text))
    assert again == inventory
    assert as_cyclonedx(again) == text


def test_same_inventory_gives_the_same_bytes_and_another_one_another_serial_number(inventory: Inventory) -> None:
    other = replace(inventory, origin=replace(ORIGIN, version="3"))
    serials = [json.loads(as_cyclonedx(each))["serialNumber"] for each in (inventory, inventory, other)]
    assert serials[0] == serials[1] != serials[2]
    spaces = [json.loads(as_spdx(each))["documentNamespace"] for each in (inventory, inventory, other)]
    assert spaces[0] == spaces[1] != spaces[2]


def test_inventory_in_the_image_and_beside_it_are_the_same_bytes(tmp_path: Path) -> None:
    tree = debian_tree(tmp_path / "tree")
    InventoryRequest(str(tree), ORIGIN, is_kept=True).write(tmp_path)
    assert main(tmp_path) == 0
    for name in ("sbom.cdx.json", "sbom.spdx.json"):
        assert (tree / "usr/share/berth" / name).read_bytes() == (tmp_path / name).read_bytes()
        assert (tree / "usr/share/berth" / name).stat().st_mode & 0o777 == 0o644
    assert main(tmp_path) == 0  # over those of an image's base


@pytest.mark.parametrize(
    ("package", "url"),
    [
        (
            InstalledPackage(PackageKind.DEB, "g++", "4:12.2.0-3~x", "amd64", "gcc-defaults", "1.203"),
            "pkg:deb/debian/g%2B%2B@4:12.2.0-3~x?arch=amd64&distro=debian-12&upstream=gcc-defaults%401.203",
        ),
        (
            InstalledPackage(PackageKind.DEB, "bash", "5.2-1", "amd64", "bash", "5.2-1"),
            "pkg:deb/debian/bash@5.2-1?arch=amd64&distro=debian-12",
        ),
        (
            InstalledPackage(PackageKind.RPM, "bash", "1:5.2-3.fc40", "x86_64", "bash", "5.2-3.fc40"),
            "pkg:rpm/debian/bash@5.2-3.fc40?arch=x86_64&distro=debian-12&epoch=1&upstream=bash-5.2-3.fc40.src.rpm",
        ),
        (InstalledPackage(PackageKind.NPM, "@types/node", "20.0.0"), "pkg:npm/%40types/node@20.0.0"),
        (InstalledPackage(PackageKind.PYPI, "torch", "2.9.0+cpu"), "pkg:pypi/torch@2.9.0%2Bcpu"),
    ],
)
def test_package_urls_are_those_of_the_reference_implementation(package: InstalledPackage, url: str) -> None:
    assert package_url(package, DEBIAN) == url
    assert PackageURL.from_string(url).to_string() == url


def _inventory(*packages: tuple[str, str, str], files: dict[str, str] | None = None) -> Inventory:
    found = [InstalledPackage(PackageKind(kind), name, version, "amd64") for kind, name, version in packages]
    origin = ImageOrigin("mine", "1", "debian:sid", "", "", "")
    loose = [LooseExecutable(path, 1, digest) for path, digest in (files or {}).items()]
    return Inventory(origin, DEBIAN, tuple(sorted(found)), tuple(sorted(loose)))


def test_difference_has_added_removed_and_changed_packages_and_files() -> None:
    before = _inventory(("deb", "bash", "1"), ("deb", "vim", "1"), ("npm", "a", "1.0.0"), files={"/x": "1", "/y": "1"})
    after = _inventory(
        ("deb", "bash", "2"), ("npm", "a", "1.0.0"), ("npm", "a", "2.0.0"), ("pypi", "six", "1"), files={"/x": "2"}
    )
    assert compare_inventories(before, after) == [
        ContentChange("deb", "bash", "1", "2"),
        ContentChange("deb", "vim", "1", ""),
        ContentChange("npm", "a", "1.0.0", "1.0.0, 2.0.0"),
        ContentChange("pypi", "six", "", "1"),
        ContentChange("file", "/x", "1", "2"),
        ContentChange("file", "/y", "1", ""),
    ]
    assert compare_inventories(before, before) == []


def _profile(more: str, tmp_path: Path) -> Profile:
    return parse_profile(f"name: mine\nversion: 1\nbase: debian:sid\n{more}", tmp_path / "profile.yaml")


def test_difference_of_settings_names_each_leaf(tmp_path: Path) -> None:
    before = _profile("apt: [vim]\nenvironment: {A: '1', B: x}\nresources: {mem: 1G}\nbinds: [{source: /a}]", tmp_path)
    after = _profile(
        "environment: {A: '2'}\nresources: {mem: 1G, time: '60'}\nbinds: [{source: /a, readonly: no}]", tmp_path
    )
    assert compare_settings(before, after) == [
        SettingChange("binds./a.readonly", "true", "false"),
        SettingChange("environment.A", "1", "2"),
        SettingChange("environment.B", "x", ""),
        SettingChange("resources.time", "", "60"),
    ]
    assert compare_settings(before, before) == []
