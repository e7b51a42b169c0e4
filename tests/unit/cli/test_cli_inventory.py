"""`berth profile sbom`, `diff` and `vulns`, with images that have inventories, and one that has none."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from broker import errors
from profiles.build import inventory_step
from profiles.image.store import DESCRIPTION, IMAGE, Image, Store, file_digest
from profiles.inventory.cyclonedx import as_cyclonedx
from profiles.inventory.model import (
    ImageOrigin,
    InstalledPackage,
    Inventory,
    LooseExecutable,
    OperatingSystem,
    PackageKind,
    UnreadPart,
)
from profiles.recipe.spec import parse_profile
from tests.fakes.command_line import run
from tests.fakes.vulnerability_files import data_file, osv_record, release, tracker_entry, vex_document, vex_statement
from tests.unit.cli.test_cli_commit import controller  # noqa: F401 - the configuration of these tests

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.controller import ScriptedController

BASH = InstalledPackage(PackageKind.DEB, "bash", "5.2-1", "amd64", "bash", "5.2-1")
SIX = InstalledPackage(PackageKind.PYPI, "six", "1.16.0", locations=("/opt/venv/site-packages",))
TOOL = LooseExecutable("/opt/tool", 5, "ab" * 32)
RUNSCRIPT = LooseExecutable("/.singularity.d/runscript", 5, "cd" * 32)


def inventory(
    version: str, *packages: InstalledPackage, loose: tuple[LooseExecutable, ...] = (RUNSCRIPT, TOOL)
) -> Inventory:
    origin = ImageOrigin("tools", version, "debian:bookworm", "", "2026-12-01T09:00:00Z", "berth")
    unread = (UnreadPart("/opt/x.dist-info/METADATA", "it has no valid name of a Python package"),)
    return Inventory(origin, OperatingSystem("debian", "12", "bookworm"), packages, loose, unread)


def publish(store: Store, version: str, content: Inventory | None, more: str = "") -> Image:
    stage = store.stage("tools", version)
    sif = stage / IMAGE
    sif.write_bytes(b"squashfs" * int(version) * 100)
    profile = parse_profile(f"name: tools\nversion: {version}\nbase: debian:bookworm\n{more}", stage / "profile.yaml")
    image = Image("tools", version, sif, file_digest(sif), sif.stat().st_size, 1.0, {}, profile, 4096)
    if content is not None:
        (stage / "sbom.cdx.json").write_text(as_cyclonedx(content))
        image = replace(image, packages=content.counts())
    (stage / DESCRIPTION).write_text(json.dumps(image.description()))
    return store.publish(stage, "tools", version)


@pytest.fixture
def store(controller: ScriptedController, tmp_path: Path) -> Store:  # noqa: F811 - the fixture
    """tools@1, and tools@2 with a newer bash, another tool and a variable more."""
    assert controller.asked == []
    store = Store(tmp_path / "store")
    publish(store, "1", inventory("1", BASH, SIX))
    newer = replace(BASH, version="5.3-1", source_version="5.3-1")
    publish(store, "2", inventory("2", newer, loose=(replace(TOOL, sha256="ef" * 32),)), "environment: {A: b}\n")
    return store


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Data in which bash 5.2 has a severe flaw with a fix, and six one without."""
    entry = tracker_entry("bash runs what it should not", bookworm=release("resolved", "5.2-2", "high"))
    data_file(tmp_path / "data/debian.json", {"bash": {"CVE-2026-1": entry}})
    data_file(tmp_path / "data/pypi/1.json", osv_record("PYSEC-1", "PyPI", "six", {"introduced": "0"}))
    return tmp_path / "data"


@pytest.mark.usefixtures("store")
def test_table_lists_packages_and_counts_executables() -> None:
    result = run("profile", "sbom", "tools@1")
    assert result.exit_code == 0, result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["KIND", "NAME", "VERSION", "SOURCE"],
        ["deb", "bash", "5.2-1", "bash"],
        ["pypi", "six", "1.16.0"],
        ["file", "/opt/tool"],
    ]
    assert "packages: 1 deb, 1 pypi" in result.stderr
    assert "2 executables that no package owns (1 of Apptainer in /.singularity.d/)" in result.stderr
    assert "not read: /opt/x.dist-info/METADATA: it has no valid name" in result.stderr


def test_documents_are_printed_and_written(store: Store, tmp_path: Path) -> None:
    stored = (store.path / "tools/1/sbom.cdx.json").read_text()
    assert run("profile", "sbom", "tools@1", "--format", "cyclonedx").stdout == stored
    assert run("profile", "sbom", "tools@1", "--output", str(tmp_path / "a.json")).exit_code == 0
    assert (tmp_path / "a.json").read_text() == stored
    spdx = json.loads(run("profile", "sbom", "tools@1", "--format", "spdx").stdout)
    assert spdx["spdxVersion"] == "SPDX-2.3"
    shown = json.loads(run("profile", "sbom", "tools@1", "--json").stdout)
    assert (shown["counts"], shown["made_now"]) == ({"deb": 1, "pypi": 1}, False)


@pytest.mark.usefixtures("store")
def test_table_is_not_written_and_an_unwritable_file_is_named(tmp_path: Path) -> None:
    result = run("profile", "sbom", "tools", "--format", "table", "--output", str(tmp_path / "a"))
    assert result.exit_code == errors.ExitCode.USAGE
    result = run("profile", "sbom", "tools", "--output", str(tmp_path / "no/a.json"))
    assert result.exit_code == errors.ExitCode.FAILED
    assert "no/a.json cannot be written: No such file or directory" in result.stderr


def test_image_without_an_inventory_gets_one_now_and_the_command_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without unpacking: tests/component/profiles/test_inventory_of_debian.py does that."""
    publish(store, "3", None)
    monkeypatch.setattr(inventory_step, "_inventory_of_old_image", lambda *_: inventory("3", BASH))
    result = run("profile", "sbom", "tools@3")
    assert "tools@3 has no inventory beside it: this one was made from the image now" in result.stderr
    assert json.loads(run("profile", "sbom", "tools@3", "--json").stdout)["made_now"] is True


def test_damaged_inventory_is_an_error_with_a_remedy(store: Store) -> None:
    (store.path / "tools/1/sbom.cdx.json").write_text("{}")
    result = run("profile", "sbom", "tools@1")
    assert result.exit_code == errors.ExitCode.FAILED
    assert "sbom.cdx.json is no inventory that this release reads" in result.stderr
    assert "hint: build the image again" in result.stderr


@pytest.mark.usefixtures("store")
def test_list_and_show_have_the_number_of_packages() -> None:
    rows = [line.split() for line in run("profile", "list").stdout.splitlines()]
    assert "PACKAGES" in rows[0]
    assert [row[row.index("B") + 1] for row in rows if row[:2] == ["tools", "1"]] == ["2"]
    listed = json.loads(run("profile", "list", "--json").stdout)["profiles"]
    assert [each["packages"] for each in listed] == [None, {"deb": 1, "pypi": 1}, {"deb": 1}]
    shown = run("profile", "show", "tools@1").stdout
    assert "size: 800\n" in shown
    assert "packages:\n  deb: 1\n  pypi: 1\n" in shown


@pytest.mark.usefixtures("store")
def test_difference_shows_packages_files_settings_and_sizes() -> None:
    result = run("profile", "diff", "tools@1", "tools@2")
    assert result.stdout.splitlines() == [
        "M\tdeb bash 5.2-1 -> 5.3-1",
        "D\tpypi six 1.16.0",
        "D\tfile /.singularity.d/runscript cdcdcdcdcdcd",
        "M\tfile /opt/tool abababababab -> efefefefefef",
        "A\tsetting environment.A b",
    ]
    assert "2 packages, 2 files and 1 setting changed; 800 B -> 1.6 KiB" in result.stderr
    shown = json.loads(run("profile", "diff", "tools@1", "tools@2", "--json").stdout)
    assert [each["name"] for each in shown["packages"]] == ["bash", "six"]
    assert shown["settings"] == [{"key": "environment.A", "before": "", "after": "b"}]
    assert (shown["before"]["size"], shown["after"]["version"]) == (800, "2")


@pytest.mark.usefixtures("store")
def test_report_begins_with_the_age_of_the_data(data: Path) -> None:
    result = run("profile", "vulns", "tools@1", "--data", str(data))
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("data: PyPI ")
    assert "Debian tracker 0 days old" in lines[0]
    assert lines[2].split() == ["bash", "5.2-1", "CVE-2026-1", "high", "fixed", "in", "5.2-2"]
    assert lines[3].split() == ["six", "1.16.0", "PYSEC-1", "unknown", "no", "fix", "yet"]
    assert "2 findings, 1 with a fix, 1 without a fix yet" in result.stderr


@pytest.mark.usefixtures("store")
def test_old_data_are_a_warning(data: Path) -> None:
    old = osv_record("PYSEC-1", "PyPI", "six", {"introduced": "0"}, modified="2020-01-01T00:00:00Z")
    data_file(data / "pypi/1.json", old)
    assert "days old; fetch them again" in run("profile", "vulns", "tools@1", "--data", str(data)).stderr


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("level", "code"), [("any", 1), ("high", 1), ("critical", 0)])
def test_gate_fails_on_severe_findings_with_a_fix(level: str, code: int, data: Path) -> None:
    result = run("profile", "vulns", "tools@1", "--data", str(data), "--fail-on", level)
    assert result.exit_code == code, result.stderr
    assert ("1 finding of" in result.stderr) == bool(code)
    assert result.stdout.startswith("data: ")  # the report comes first in any case


@pytest.mark.usefixtures("store")
def test_gate_passes_with_a_statement_and_not_without_data(data: Path, tmp_path: Path) -> None:
    vex = vex_document(tmp_path / "vex.json", vex_statement("CVE-2026-1", "pkg:deb/debian/bash"))
    words = ("profile", "vulns", "tools@1", "--data", str(data), "--vex", str(vex), "--fail-on", "any")
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert "1 finding, 1 without a fix yet, 1 more muted by VEX" in result.stderr
    shown = json.loads(run(*words, "--json").stdout)
    assert [each["reason"] for each in shown["muted"]] == ["component_not_present"]
    assert [each["id"] for each in shown["findings"]] == ["PYSEC-1"]
    (data / "pypi/1.json").unlink()
    result = run(*words)
    assert result.exit_code == errors.ExitCode.FAILED
    assert "not compared: 1 package of pypi" in result.stderr
    assert "not all packages were compared" in result.stderr


@pytest.mark.usefixtures("store")
def test_missing_data_are_an_error_with_the_remedy(tmp_path: Path) -> None:
    result = run("profile", "vulns", "tools")
    assert result.exit_code == errors.ExitCode.USAGE
    assert "hint: name one with --data, or set profiles.vulnerability_data" in result.stderr
    result = run("profile", "vulns", "tools", "--data", str(tmp_path / "nowhere"))
    assert result.exit_code == errors.ExitCode.FAILED
    assert "nowhere does not exist" in result.stderr


@pytest.mark.usefixtures("store")
def test_unknown_suite_is_one_row_of_a_package(data: Path) -> None:
    data_file(data / "debian.json", {"bash": {f"CVE-{n}": tracker_entry(sid=release("open")) for n in range(5)}})
    result = run("profile", "vulns", "tools@1", "--data", str(data))
    assert [line.split() for line in result.stdout.splitlines() if line.startswith("bash")] == [
        ["bash", "5.2-1", "5", "in", "all", "unknown", "suite"]
    ]
    assert "5 of an unknown suite" in result.stderr
