"""Trees that a stranger has made, and documents that a stranger has written: refused, or listed as not read.

Nothing outside the tree is read, and no message has a control character.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
from typing import TYPE_CHECKING, Any

import pytest

from profiles.inventory import collect, dpkg_reader, node_reader, rpm_reader
from profiles.inventory.collect import collect_inventory
from profiles.inventory.cyclonedx import as_cyclonedx
from profiles.inventory.cyclonedx_reader import read_inventory
from profiles.inventory.inventory_worker import InventoryRequest, main, put_into_tree
from profiles.inventory.model import InventoryError, recorded_counts
from tests.fakes.image_tree import (
    ELF,
    ORIGIN,
    debian_tree,
    npm_package,
    paragraph,
    python_package,
    rpm_database,
    rpm_header,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FOREIGN = "Package: stolen\nVersion: 1\nStatus: install ok installed\n"
RPM = "usr/lib/sysimage/rpm/rpmdb.sqlite"
SITE = "opt/lib/python3.11/site-packages"


def _status(text: str | bytes) -> Callable[[Path], object]:
    return lambda tree: write(tree / "var/lib/dpkg/status", text)


def _endless_view(tree: Path) -> None:
    database = sqlite3.connect(rpm_database(tree / RPM))
    database.execute("ALTER TABLE Packages RENAME TO Others")
    forever = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x'' AS blob FROM n"
    database.execute(f"CREATE VIEW Packages AS {forever}")
    database.commit()
    database.close()


def _foreign_status(tree: Path) -> None:
    (tree / "var/lib/dpkg/status").unlink()
    (tree / "var/lib/dpkg/status").symlink_to(write(tree.parent / "secret", FOREIGN))


def _pipe(tree: Path) -> None:
    (tree / "var/lib/dpkg/status").unlink()
    os.mkfifo(tree / "var/lib/dpkg/status")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "dpkg status deleted": (lambda tree: (tree / "var/lib/dpkg/status").unlink(), "status is missing"),
    "dpkg status empty": (_status(""), "lacks dpkg"),
    "dpkg status cut off": (_status("Package: aa\nVersion: 1\nStatus: install ok installed\n"), "lacks dpkg"),
    "dpkg status without a name": (_status("Version: 1\n"), "no valid name"),
    "dpkg status with a bad name": (_status(paragraph("a\x1b[31m")), "no valid name"),
    "dpkg status with a bad version": (_status(paragraph("dpkg", "1 2")), "dpkg has no valid version"),
    "dpkg status with a bad source": (_status(paragraph("dpkg", "1", "Source: a b c\n")), "no valid version or source"),
    "dpkg status without a version": (_status("Package: dpkg\nStatus: a b installed\n"), "no valid version"),
    "dpkg status that is no text": (_status(b"\xff\xfe\x00"), "no UTF-8"),
    "dpkg status is a link out of the tree": (_foreign_status, "lists no package|lacks dpkg|is missing"),
    "dpkg status is a pipe": (_pipe, "lists no package|lacks dpkg|is missing"),
    "apk database empty": (lambda tree: write(tree / "lib/apk/db/installed", ""), "lists no package"),
    "apk database damaged": (lambda tree: write(tree / "lib/apk/db/installed", b"\0\xff\nP:"), "no valid name"),
    "apk with a bad version": (lambda tree: write(tree / "lib/apk/db/installed", "P:a\nV:x\n"), "no valid name"),
    "rpm database empty": (lambda tree: write(tree / RPM, ""), "damaged"),
    "rpm database is text": (lambda tree: write(tree / RPM, "SQLite format 4" * 100), "damaged"),
    "rpm database without packages": (lambda tree: rpm_database(tree / RPM), "lists no package"),
    "rpm database with an endless view": (_endless_view, "damaged"),
    "rpm header cut off": (lambda tree: rpm_database(tree / RPM, struct.pack(">II", 5, 5)), "damaged"),
    "rpm header with a huge index": (lambda tree: rpm_database(tree / RPM, struct.pack(">II", 2**31, 5)), "damaged"),
    "rpm header that points outside": (
        lambda tree: rpm_database(tree / RPM, struct.pack(">IIIIiI", 1, 1, 1000, 6, -5, 1) + b"a"),
        "damaged",
    ),
    "rpm header with a bad name": (
        lambda tree: rpm_database(tree / RPM, rpm_header({1000: ["a b"], 1001: ["1"], 1002: ["1"], 1022: ["x"]})),
        "damaged",
    ),
    "rpm files without folders": (
        lambda tree: rpm_database(
            tree / RPM,
            rpm_header({1000: ["a"], 1001: ["1"], 1002: ["1"], 1022: ["x"], 1116: [7], 1117: ["f"], 1118: ["/"]}),
        ),
        "damaged",
    ),
    "rpm database with changes in its log": (
        lambda tree: write(rpm_database(tree / RPM).with_name("rpmdb.sqlite-wal"), "x"),
        "not written to its database",
    ),
    "rpm database of an old form": (lambda tree: write(tree / "var/lib/rpm/Packages", b"x"), "old form of rpm"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damaged_database_is_an_error_and_no_empty_list(name: str, tmp_path: Path) -> None:
    damage, says = REFUSED[name]
    damage(debian_tree(tmp_path / "tree"))
    with pytest.raises(InventoryError, match=says) as caught:
        collect_inventory(tmp_path / "tree", ORIGIN)
    assert caught.value.message.isprintable()
    assert "stolen" not in caught.value.message


def test_package_manager_without_any_database_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "usr/bin/rpm", ELF, 0o755)
    with pytest.raises(InventoryError, match="the image has /usr/bin/rpm, and no list of its packages"):
        collect_inventory(tmp_path, ORIGIN)


@pytest.mark.parametrize(
    ("module", "limit", "says"),
    [
        (dpkg_reader, "MAX_STATUS_BYTES", "larger than 0 KiB"),
        (dpkg_reader, "MAX_OWNED_FILES_BYTES", "larger than 0 KiB"),
        (dpkg_reader, "MAX_PACKAGES", "more than 1 packages"),
        (collect, "MAX_IMAGE_ENTRIES", "more than 1 files"),
        (collect, "MAX_EXECUTABLES", "more than 1 executables"),
        (collect, "MAX_UNREAD", "more than 1 damaged packages"),
        (collect, "MAX_LANGUAGE_PACKAGES", "more than 1 Python and npm packages"),
    ],
)
def test_every_number_has_a_limit(
    module: Any,  # noqa: ANN401 - a module
    limit: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    debian_tree(tmp_path, paragraph("a"), paragraph("b"))
    for name in ("one", "two", "three"):
        write(tmp_path / "opt" / name, ELF, 0o755)
        write(tmp_path / f"opt/node_modules/{name}/package.json", "{}")
    collect_inventory(tmp_path, ORIGIN)
    monkeypatch.setattr(module, limit, 1)
    with pytest.raises(InventoryError, match=says):
        collect_inventory(tmp_path, ORIGIN)


def test_rpm_database_above_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rpm_database(tmp_path / RPM)
    monkeypatch.setattr(rpm_reader, "MAX_RPM_BYTES", 1)
    with pytest.raises(InventoryError, match="larger than"):
        collect_inventory(tmp_path, ORIGIN)


UNREAD: dict[str, Callable[[Path], object]] = {
    "metadata without a name": lambda tree: write(tree / SITE / "a-1.dist-info/METADATA", "Version: 1\n"),
    "metadata without a version": lambda tree: write(tree / SITE / "a-1.dist-info/METADATA", "Name: a\n"),
    "metadata of zeros": lambda tree: write(tree / SITE / "a-1.dist-info/METADATA", bytes(5000)),
    "metadata with a bad name": lambda tree: python_package(tree / SITE, "-a", "1"),
    "metadata with a bad version": lambda tree: python_package(tree / SITE, "a", "\x1b[2J"),
    "package.json empty": lambda tree: write(tree / "opt/node_modules/a/package.json", ""),
    "package.json is a list": lambda tree: write(tree / "opt/node_modules/a/package.json", "[1]"),
    "package.json deeper than Python": lambda tree: write(tree / "opt/node_modules/a/package.json", "[" * 99_999),
    "package.json with a number": lambda tree: write(tree / "opt/node_modules/a/package.json", '{"name": 1}'),
    "package.json with a path": lambda tree: npm_package(tree / "opt/node_modules", "a", "1.0.0/../../x"),
    "package.json with a bad name": lambda tree: write(
        tree / "opt/node_modules/a/package.json", json.dumps({"name": "../../etc", "version": "1.0.0"})
    ),
}


@pytest.mark.parametrize("name", UNREAD)
def test_damaged_python_and_npm_packages_are_listed_as_not_read(name: str, tmp_path: Path) -> None:
    UNREAD[name](debian_tree(tmp_path))
    found = collect_inventory(tmp_path, ORIGIN)
    assert [each.name for each in found.packages] == ["dpkg"]
    [unread] = found.unread
    assert unread.path.startswith("/opt/")
    assert unread.reason.startswith("it ")


def test_large_package_json_is_listed_as_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_package(tmp_path / "opt/node_modules", "a", "1.0.0")
    monkeypatch.setattr(node_reader, "MAX_PACKAGE_JSON_BYTES", 3)
    assert "larger than" in collect_inventory(tmp_path, ORIGIN).unread[0].reason


@pytest.mark.parametrize(
    "record", ["../../../../../../etc/passwd,,\n", "/etc/passwd,,\n", '"unclosed\n', "\x00\xff,\n", "a" * 200_000]
)
def test_record_of_a_package_owns_nothing_outside_and_breaks_nothing(record: str, tmp_path: Path) -> None:
    python_package(tmp_path / SITE, "a", "1", record)
    write(tmp_path / "opt/stray", ELF, 0o755)
    found = collect_inventory(tmp_path, ORIGIN)
    assert [each.path for each in found.executables] == ["/opt/stray"]


def test_names_of_files_are_escaped_and_stay_different(tmp_path: Path) -> None:
    for name in (b"a\x1b[31m", rb"a\x1b[31m", b"b\xff\n", "ü\u202e".encode()):
        write(tmp_path / "opt" / os.fsdecode(name), ELF, 0o755)
    found = collect_inventory(tmp_path, ORIGIN)
    paths = [each.path for each in found.executables]
    assert paths == ["/opt/a\\x1b[31m", "/opt/a\\x5cx1b[31m", "/opt/b\\xff\\x0a", "/opt/ü\\xe2\\x80\\xae"]


def test_folder_that_is_a_link_is_not_entered(tmp_path: Path) -> None:
    npm_package(tmp_path / "outside/node_modules", "stolen", "1.0.0")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/opt").symlink_to(tmp_path / "outside")
    (tmp_path / "tree/var").symlink_to(debian_tree(tmp_path / "host") / "var")
    assert collect_inventory(tmp_path / "tree", ORIGIN).packages == ()


@pytest.mark.parametrize("part", ["usr", "usr/share", "usr/share/berth"])
def test_documents_are_written_through_no_link(part: str, tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (tree / part).parent.mkdir(parents=True)
    (tree / part).symlink_to(outside)
    with pytest.raises(InventoryError, match="cannot be written to /usr/share/berth"):
        put_into_tree(tree, {"sbom.cdx.json": "{}"})
    assert list(outside.iterdir()) == []


def test_document_replaces_a_link_instead_of_following_it(tmp_path: Path) -> None:
    victim = write(tmp_path / "victim", "kept")
    (tmp_path / "tree/usr/share/berth").mkdir(parents=True)
    (tmp_path / "tree/usr/share/berth/sbom.cdx.json").symlink_to(victim)
    put_into_tree(tmp_path / "tree", {"sbom.cdx.json": "new"})
    assert victim.read_text() == "kept"
    assert (tmp_path / "tree/usr/share/berth/sbom.cdx.json").read_text() == "new"


def test_error_of_the_worker_is_one_line_and_leaves_no_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = debian_tree(tmp_path / "tree")
    (tree / "var/lib/dpkg/status").unlink()
    InventoryRequest(str(tree), ORIGIN, is_kept=True).write(tmp_path)
    assert main(tmp_path) == 1
    said = capsys.readouterr().out
    assert said.startswith("error: the image has dpkg, and /var/lib/dpkg/status is missing; give the image")
    assert said.count("\n") == 1
    assert not (tmp_path / "sbom.cdx.json").exists()
    assert not (tree / "usr/share/berth").exists()


def _document(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(as_cyclonedx(collect_inventory(debian_tree(tmp_path / "tree"), ORIGIN)))
    return found


DOCUMENTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "not of Berth": lambda each: each["metadata"]["component"].pop("properties"),
    "of another generation": lambda each: each["metadata"]["component"]["properties"][0].update(value="99"),
    "name with a control character": lambda each: each["components"][1].update(name="\x1b[2J"),
    "name that is no text": lambda each: each["components"][1].update(name=["a"]),
    "component of another type": lambda each: each["components"][1].update(type="firmware"),
    "no components": lambda each: each.pop("components"),
    "no base": lambda each: each["metadata"]["component"].pop("pedigree"),
    "package of another manager": lambda each: each["components"][1]["properties"][0].update(value="brew"),
    "executable without a digest": lambda each: each["components"].append({"type": "file", "name": "/x"}),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_of_someone_else_is_refused(name: str, tmp_path: Path) -> None:
    document = _document(tmp_path)
    DOCUMENTS[name](document)
    file = write(tmp_path / "sbom.cdx.json", json.dumps(document))
    with pytest.raises(InventoryError, match="is no inventory that this release reads"):
        read_inventory(file)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 99_999, '{"metadata": 3}'])
def test_file_that_is_no_document_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="is no inventory that this release reads"):
        read_inventory(write(tmp_path / "sbom.cdx.json", text))


@pytest.mark.parametrize("value", [3, [], {"deb": "9"}, {"brew": 1}])
def test_numbers_of_packages_in_a_description_are_checked(value: object) -> None:
    with pytest.raises(ValueError, match=r"no numbers|brew"):
        recorded_counts(value)
