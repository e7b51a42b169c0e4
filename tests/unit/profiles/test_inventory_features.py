"""Features of dev containers in inventories: those of a build, and those that its base has."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

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
from profiles.inventory.model import CYCLONEDX_NAME, InstalledPackage, OperatingSystem, PackageKind
from profiles.inventory.purl import package_url
from profiles.inventory.spdx import as_spdx
from tests.fakes.image_tree import ORIGIN, debian_tree, write

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = f"sha256:{'ab' * 32}"
NODE = InstalledPackage(PackageKind.FEATURE, "registry.example.org/features/node", "1.5.0", digest=DIGEST)
LOCAL = InstalledPackage(PackageKind.FEATURE, "./tool", "", digest=DIGEST)


def features_of(file: Path) -> list[InstalledPackage]:
    return [each for each in read_inventory(file).packages if each.kind is PackageKind.FEATURE]


def test_features_are_in_both_documents_and_are_read_back(tmp_path: Path) -> None:
    tree = debian_tree(tmp_path / "tree")
    InventoryRequest(str(tree), ORIGIN, is_kept=True, features=(NODE, LOCAL)).write(tmp_path)
    assert main(tmp_path) == 0
    assert features_of(tmp_path / CYCLONEDX_NAME) == [LOCAL, NODE]
    text = (tmp_path / CYCLONEDX_NAME).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    spdx = parse_file(str(tmp_path / "sbom.spdx.json"))
    assert validate_full_spdx_document(spdx) == []
    assert {"./tool", NODE.name} <= {each.name for each in spdx.packages}
    assert read_inventory(tmp_path / CYCLONEDX_NAME).counts() == {"deb": 1, "feature": 2}


def test_features_of_the_base_stay_in_the_inventories_of_what_is_built_on_it(tmp_path: Path) -> None:
    tree = debian_tree(tmp_path / "tree")
    write(tree / "usr/share/berth" / CYCLONEDX_NAME, as_cyclonedx(collect_inventory(tree, ORIGIN, [NODE])))
    found = collect_inventory(tree, ORIGIN, [LOCAL])
    assert [each for each in found.packages if each.kind is PackageKind.FEATURE] == [LOCAL, NODE]


@pytest.mark.parametrize("content", ["", "[]", "[" * 99_999, '{"components": [{"type": "library"}]}', "\0"])
def test_document_of_a_stranger_in_the_base_adds_nothing(tmp_path: Path, content: str) -> None:
    tree = debian_tree(tmp_path / "tree")
    write(tree / "usr/share/berth" / CYCLONEDX_NAME, content)
    assert [each.name for each in collect_inventory(tree, ORIGIN).packages] == ["dpkg"]


def test_document_of_the_base_behind_a_link_adds_nothing(tmp_path: Path) -> None:
    tree = debian_tree(tmp_path / "tree")
    write(tmp_path / "outside" / CYCLONEDX_NAME, as_cyclonedx(collect_inventory(tree, ORIGIN, [NODE])))
    (tree / "usr/share").mkdir()
    (tree / "usr/share/berth").symlink_to(tmp_path / "outside")
    assert [each.name for each in collect_inventory(tree, ORIGIN).packages] == ["dpkg"]


@pytest.mark.parametrize(
    ("feature", "kind", "name", "qualifiers"),
    [
        (NODE, "oci", "node", {"repository_url": NODE.name, "tag": "1.5.0"}),
        (replace(NODE, version=""), "oci", "node", {"repository_url": NODE.name}),
        (LOCAL, "generic", "tool", {"checksum": DIGEST}),
    ],
)
def test_package_url_of_a_feature(feature: InstalledPackage, kind: str, name: str, qualifiers: dict[str, str]) -> None:
    url = PackageURL.from_string(package_url(feature, OperatingSystem("debian")))
    assert (url.type, url.name, url.qualifiers) == (kind, name, qualifiers)
    assert url.version == (DIGEST if kind == "oci" else None)


def test_feature_whose_files_changed_under_the_same_version_is_a_difference(tmp_path: Path) -> None:
    tree = debian_tree(tmp_path / "tree")
    changed = replace(NODE, digest=f"sha256:{'cd' * 32}")
    before, after = (collect_inventory(tree, ORIGIN, [each]) for each in (NODE, changed))
    expected = ContentChange("feature", NODE.name, "1.5.0 sha256:abababababab", "1.5.0 sha256:cdcdcdcdcdcd")
    assert compare_inventories(before, after) == [expected]


def test_damaged_digest_of_a_feature_is_refused(tmp_path: Path) -> None:
    document = json.loads(as_cyclonedx(collect_inventory(debian_tree(tmp_path / "tree"), ORIGIN, [NODE])))
    write(tmp_path / "x.json", json.dumps(document).replace(DIGEST, "sha256:../../etc"))
    with pytest.raises(Exception, match="no inventory that this release reads"):
        read_inventory(tmp_path / "x.json")


def test_spdx_names_the_digest(tmp_path: Path) -> None:
    text = as_spdx(collect_inventory(debian_tree(tmp_path / "tree"), ORIGIN, [NODE]))
    [element] = [each for each in json.loads(text)["packages"] if each["name"] == NODE.name]
    assert element["sourceInfo"] == f"a dev container feature {DIGEST}"
