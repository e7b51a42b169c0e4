"""The inventory of made trees: which packages are found, with which sources, and which executables no package owns."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from profiles.inventory import collect
from profiles.inventory.collect import collect_inventory
from profiles.inventory.model import InstalledPackage, Inventory, InventoryError, PackageKind
from tests.fakes.image_tree import (
    ELF,
    ORIGIN,
    Header,
    apk_database,
    debian_tree,
    npm_package,
    paragraph,
    python_package,
    rpm_database,
    rpm_header,
    write,
)

if TYPE_CHECKING:
    from pathlib import Path

BASH: Header = {
    1000: ["bash"],
    1001: ["5.2.26"],
    1002: ["3.fc40"],
    1003: [1],
    1022: ["x86_64"],
    1044: ["bash-5.2.26-3.fc40.src.rpm"],
    1116: [0, 1],
    1117: ["bash", "readme"],
    1118: ["/usr/bin/", "/usr/share/doc/bash/"],
}
FEDORA = "ID=fedora\nVERSION_ID=40\n"


def inventory(tree: Path) -> Inventory:
    return collect_inventory(tree, ORIGIN)


def names(found: Inventory) -> list[str]:
    return [f"{each.kind.value} {each.name} {each.version}" for each in found.packages]


def loose(found: Inventory) -> list[str]:
    return [each.path for each in found.executables]


def test_dpkg_packages_have_their_source_and_only_installed_ones_count(tmp_path: Path) -> None:
    debian_tree(
        tmp_path,
        paragraph("libssl3", "3.0.11-1~deb12u2+b1", "Source: openssl (3.0.11-1~deb12u2)\n"),
        paragraph("openssl", "3.0.11-1~deb12u2"),
        paragraph("bash", "5.2-1", "Source: bash\n"),
        paragraph("gone", "1", status="deinstall ok config-files"),
        paragraph("waits", "1", status="install ok triggers-pending"),
    )
    found = inventory(tmp_path)
    assert names(found) == [
        "deb bash 5.2-1",
        "deb dpkg 1.21.22",
        "deb libssl3 3.0.11-1~deb12u2+b1",
        "deb openssl 3.0.11-1~deb12u2",
        "deb waits 1",
    ]
    sources = {each.name: (each.source, each.source_version) for each in found.packages}
    assert sources["libssl3"] == ("openssl", "3.0.11-1~deb12u2")
    assert sources["openssl"] == ("openssl", "3.0.11-1~deb12u2")
    assert (found.system.id, found.system.version, found.system.suite) == ("debian", "12", "bookworm")


def test_two_architectures_of_a_package_are_two_packages(tmp_path: Path) -> None:
    second = paragraph("libc6", "2.36-9").replace("amd64", "i386")
    debian_tree(tmp_path, paragraph("libc6", "2.36-9"), second)
    assert [each.architecture for each in inventory(tmp_path).packages if each.name == "libc6"] == ["amd64", "i386"]


def test_debian_sid_is_known_by_what_apt_installs_from(tmp_path: Path) -> None:
    os_release = "ID=debian\nVERSION_CODENAME=forky\n"
    debian_tree(tmp_path, os_release=os_release)
    assert inventory(tmp_path).system.suite == "forky"
    write(tmp_path / "etc/apt/sources.list", "deb http://mirror.example.org/debian sid main\n")
    assert inventory(tmp_path).system.suite == "sid"
    write(tmp_path / "etc/apt/sources.list", "# deb http://mirror.example.org/debian sid main\n")
    write(tmp_path / "etc/apt/sources.list.d/debian.sources", "Types: deb\nSuites: unstable\n")
    assert inventory(tmp_path).system.suite == "sid"


def test_image_without_dpkg_itself_has_a_status_for_each_package(tmp_path: Path) -> None:
    write(tmp_path / "var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2026a-1\nArchitecture: all\n")
    write(tmp_path / "var/lib/dpkg/status.d/tzdata.md5sums", f"{'0' * 32}  usr/bin/tzselect\n")
    write(tmp_path / "usr/bin/tzselect", "#!/bin/sh\n", 0o755)
    assert names(inventory(tmp_path)) == ["deb tzdata 2026a-1"]
    assert loose(inventory(tmp_path)) == []


def test_python_packages_are_found_in_every_place(tmp_path: Path) -> None:
    python_package(tmp_path / "opt/venv/lib/python3.11/site-packages", "Zope.Interface", "7.0")
    python_package(tmp_path / "opt/other/lib/python3.12/site-packages", "zope_interface", "7.0")
    python_package(tmp_path / "root/.local/lib/python3.11/site-packages", "six", "1.17.0")
    write(tmp_path / "srv/dist-packages/old.egg-info/PKG-INFO", "Name: old\nVersion: 1.0.post1\n")
    write(tmp_path / "srv/dist-packages/older-2.egg-info", "Name: older\r\nVersion: 2\r\n\r\nName: not this\r\n")
    found = inventory(tmp_path)
    assert names(found) == ["pypi old 1.0.post1", "pypi older 2", "pypi six 1.17.0", "pypi zope-interface 7.0"]
    assert found.packages[-1].locations == (
        "/opt/other/lib/python3.12/site-packages",
        "/opt/venv/lib/python3.11/site-packages",
    )
    assert found.packages[1].locations == ("/srv/dist-packages",)


def test_npm_packages_are_found_with_scopes_and_within_each_other(tmp_path: Path) -> None:
    modules = tmp_path / "usr/local/lib/node_modules"
    folder = npm_package(modules, "yarn", "1.22.0")
    npm_package(folder / "node_modules", "@types/node", "20.1.0-rc.1")
    npm_package(modules, ".hidden", "1.0.0")
    write(folder / "dist/package.json", '{"name": "part", "version": "1.0.0"}')
    assert names(inventory(tmp_path)) == ["npm @types/node 20.1.0-rc.1", "npm yarn 1.22.0"]


def test_parts_of_distribution_packages_are_no_packages_of_their_own(tmp_path: Path) -> None:
    debian_tree(tmp_path, paragraph("python3-six"), paragraph("node-semver"))
    python_package(tmp_path / "usr/lib/python3/dist-packages", "six", "1.16")
    npm_package(tmp_path / "usr/share/node_modules", "semver", "7.0.0")
    listing = "/usr/lib/python3/dist-packages/six-1.16.dist-info/METADATA\n"
    write(tmp_path / "var/lib/dpkg/info/python3-six.list", listing)
    write(tmp_path / "var/lib/dpkg/info/node-semver.list", "/usr/share/node_modules/semver/package.json\n")
    assert [each.kind for each in inventory(tmp_path).packages] == [PackageKind.DEB] * 3


def test_apk_packages_own_their_files(tmp_path: Path) -> None:
    records = apk_database(
        "P:musl\nV:1.2.5-r0\nA:x86_64\no:musl\nF:lib\nR:ld-musl-x86_64.so.1\n",
        "P:ssl_client\nV:1.36.1-r29\nA:x86_64\no:busybox\nF:usr/bin\nR:ssl_client\nF:\nR:top\n",
    )
    write(tmp_path / "lib/apk/db/installed", records)
    write(tmp_path / "etc/os-release", "ID=alpine\nVERSION_ID=3.20.3\n")
    for path in ("lib/ld-musl-x86_64.so.1", "usr/bin/ssl_client", "top", "usr/bin/stray"):
        write(tmp_path / path, ELF, 0o755)
    found = inventory(tmp_path)
    assert names(found) == ["apk musl 1.2.5-r0", "apk ssl_client 1.36.1-r29"]
    assert found.packages[1].source == "busybox"
    assert loose(found) == ["/usr/bin/stray"]


def test_rpm_packages_own_their_files_and_keys_are_no_packages(tmp_path: Path) -> None:
    key: Header = {1000: ["gpg-pubkey"], 1001: ["1"], 1002: ["2"]}
    rpm_database(tmp_path / "usr/lib/sysimage/rpm/rpmdb.sqlite", rpm_header(BASH), rpm_header(key))
    write(tmp_path / "etc/os-release", FEDORA)
    for path in ("usr/bin/bash", "usr/bin/stray"):
        write(tmp_path / path, ELF, 0o755)
    found = inventory(tmp_path)
    assert found.packages == (
        InstalledPackage(PackageKind.RPM, "bash", "1:5.2.26-3.fc40", "x86_64", "bash", "5.2.26-3.fc40"),
    )
    assert loose(found) == ["/usr/bin/stray"]


def test_executables_that_no_package_owns_are_counted(tmp_path: Path) -> None:
    site = tmp_path / "opt/venv/lib/python3.11/site-packages"
    python_package(debian_tree(tmp_path) and site, "tool", "1", '../../../bin/tool,,\n"tool/a,b.py",sha256=x,1\n')
    folder = npm_package(tmp_path / "opt/node_modules", "esbuild", "0.25.0")
    for path in ("opt/venv/bin/tool", "opt/node_modules/esbuild/bin/esbuild", "opt/copied", "opt/script"):
        write(tmp_path / path, ELF if path != "opt/script" else "#!/bin/sh\n", 0o755)
    write(site / "tool/a,b.py", "#!/usr/bin/python3\n", 0o755)
    write(tmp_path / "opt/data", ELF)
    write(tmp_path / "opt/text", "no program", 0o755)
    write(tmp_path / "tmp/left", ELF, 0o755)
    (tmp_path / "opt/link").symlink_to("copied")
    found = inventory(tmp_path)
    assert folder.exists()
    assert loose(found) == ["/opt/copied", "/opt/script"]
    assert found.executables[0].size == len(ELF)


def test_diverted_file_belongs_to_its_package(tmp_path: Path) -> None:
    debian_tree(tmp_path)
    write(tmp_path / "usr/bin/dpkg.distrib", ELF, 0o755)
    write(tmp_path / "var/lib/dpkg/diversions", "/usr/bin/dpkg\n/usr/bin/dpkg.distrib\nother\n")
    assert loose(inventory(tmp_path)) == []


def test_folder_named_like_an_npm_package_hides_no_program(tmp_path: Path) -> None:
    write(tmp_path / "opt/node_modules/fake/miner", ELF, 0o755)
    assert loose(inventory(tmp_path)) == ["/opt/node_modules/fake/miner"]


def test_empty_image_has_an_empty_inventory(tmp_path: Path) -> None:
    found = inventory(tmp_path)
    assert (found.packages, found.executables, found.counts()) == ((), (), {})


def test_unreadable_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a file system that fails: root reads every folder of a sound one."""

    def failing(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", b"opt/\x1bclosed")

    monkeypatch.setattr(collect, "walk", failing)
    with pytest.raises(InventoryError, match=r"/opt/.x1bclosed of the image cannot be read: Permission denied"):
        inventory(tmp_path)
