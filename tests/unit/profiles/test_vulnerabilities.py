"""Vulnerability reports with made data: the answers, what is not compared, and what a gate counts."""

from __future__ import annotations

import os
import time
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from profiles.inventory.model import InstalledPackage, Inventory, OperatingSystem, PackageKind
from profiles.vulnerabilities.finding import VulnerabilityDataError
from profiles.vulnerabilities.openvex import read_vex
from profiles.vulnerabilities.severity import Severity, cvss3_score, severity_of_vector, severity_of_word
from profiles.vulnerabilities.vulnerability_report import VulnerabilityReport, report_vulnerabilities
from tests.fakes.image_tree import ORIGIN
from tests.fakes.vulnerability_files import (
    Json,
    data_file,
    osv_record,
    release,
    tracker_entry,
    vex_document,
    vex_statement,
)

if TYPE_CHECKING:
    from pathlib import Path

BOOKWORM = OperatingSystem("debian", "12", "bookworm")
LIBSSL = InstalledPackage(PackageKind.DEB, "libssl3", "3.0.11-1+b1", "amd64", "openssl", "3.0.11-1")
OPENSSL = InstalledPackage(PackageKind.DEB, "openssl", "3.0.11-1", "amd64", "openssl", "3.0.11-1")
TORCH = InstalledPackage(PackageKind.PYPI, "torch", "2.9.0", locations=("/opt/venv",))
LEFT_PAD = InstalledPackage(PackageKind.NPM, "left-pad", "1.3.0", locations=("/a",))


def inventory(*packages: InstalledPackage, system: OperatingSystem = BOOKWORM) -> Inventory:
    return Inventory(ORIGIN, system, packages, ())


def answers(report: VulnerabilityReport) -> dict[str, str]:
    return {each.id: f"{each.answer.value} {each.fixed}".strip() for each in report.open_findings}


def tracker(folder: Path, **entries: Json) -> Path:
    """The tracker's data with these entries of openssl; the suite bookworm is always known."""
    known = {"CVE-0-0": tracker_entry(bookworm=release("resolved", "0"))}
    data_file(folder / "debian.json", {"openssl": entries, "base-files": known})
    return folder


def osv(folder: Path, *records: Json) -> Path:
    for number, record in enumerate(records):
        data_file(folder / "osv" / f"{number}.json", record)
    return folder


def test_tracker_gives_the_four_answers_once_for_a_source_package(tmp_path: Path) -> None:
    folder = tracker(
        tmp_path,
        **{
            "CVE-1": tracker_entry(bookworm=release("resolved", "3.0.11-1~deb12u2", "high")),
            "CVE-2": tracker_entry(bookworm=release("resolved", "3.0.12-1", "medium")),
            "CVE-3": tracker_entry(bookworm=release("open")),
            "CVE-4": tracker_entry(bookworm=release("open", urgency="unimportant")),
            "CVE-5": tracker_entry(bookworm=release("open", nodsa_reason="ignored")),
            "CVE-6": tracker_entry(bookworm=release("open", nodsa_reason="postponed")),
            "CVE-7": tracker_entry(bookworm=release("resolved", "0")),
            "CVE-8": tracker_entry(trixie=release("open")),
            "CVE-9": tracker_entry(bookworm=release("undetermined")),
        },
    )
    report = report_vulnerabilities(inventory(LIBSSL, OPENSSL), folder)
    assert answers(report) == {
        "CVE-2": "fixed 3.0.12-1",
        "CVE-3": "no-fix",
        "CVE-4": "ignored",
        "CVE-5": "ignored",
        "CVE-6": "no-fix",
        "CVE-9": "no-fix",
    }
    assert report.findings[0].package.installed == ("libssl3", "openssl")
    assert report.findings[0].severity is Severity.MEDIUM


def test_suite_that_the_data_do_not_know_is_an_answer(tmp_path: Path) -> None:
    folder = tracker(tmp_path, **{"CVE-1": tracker_entry(bookworm=release("resolved", "99"))})
    kali = replace(BOOKWORM, suite="kali-rolling", version="")
    report = report_vulnerabilities(inventory(OPENSSL, system=kali), folder)
    assert answers(report) == {"CVE-1": "unknown-suite"}
    assert report.find_fixable(Severity.UNKNOWN) == []


def test_osv_of_debian_is_used_if_it_alone_knows_the_release(tmp_path: Path) -> None:
    record = osv_record(
        "DEBIAN-CVE-1", "Debian:13", "openssl", {"introduced": "0"}, {"fixed": "3.1-1"}, upstream=["CVE-1"]
    )
    folder = osv(tracker(tmp_path, **{"CVE-9": tracker_entry(bookworm=release("open"))}), record)
    trixie = OperatingSystem("debian", "13", "trixie")
    assert answers(report_vulnerabilities(inventory(OPENSSL, system=trixie), folder)) == {"CVE-1": "fixed 3.1-1"}
    assert answers(report_vulnerabilities(inventory(OPENSSL), folder)) == {"CVE-9": "no-fix"}


def test_osv_of_another_release_is_no_finding_and_without_any_an_unknown_suite(tmp_path: Path) -> None:
    other = osv_record("D-1", "Debian:11", "openssl", {"introduced": "0"})
    own = osv_record("D-2", "Debian:12", "openssl", {"introduced": "0"}, ecosystem_specific={"urgency": "unimportant"})
    osv(tmp_path / "one", other)
    osv(tmp_path / "both", other, own)
    assert answers(report_vulnerabilities(inventory(OPENSSL), tmp_path / "one")) == {"D-1": "unknown-suite"}
    report = report_vulnerabilities(inventory(OPENSSL), tmp_path / "both")
    assert answers(report) == {"D-2": "no-fix"}  # the urgency is beside the packages, where it says nothing
    own["affected"][0]["ecosystem_specific"] = {"urgency": "unimportant"}
    osv(tmp_path / "both", other, own)
    assert answers(report_vulnerabilities(inventory(OPENSSL), tmp_path / "both")) == {"D-2": "ignored"}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (({"introduced": "0"}, {"fixed": "2.10.0"}), "fixed 2.10.0"),
        (({"introduced": "0"}, {"fixed": "2.9.0"}), ""),
        (({"introduced": "2.9.0"},), "no-fix"),
        (({"introduced": "2.9.1"},), ""),
        (({"introduced": "0"}, {"last_affected": "2.9.0"}), "no-fix"),
        (({"introduced": "0"}, {"last_affected": "2.8"}), ""),
        (({"fixed": "2.1"}, {"introduced": "2.5"}, {"fixed": "2.9.0.post1"}, {"introduced": "1"}), "fixed 2.9.0.post1"),
        (({"introduced": "0"}, {"fixed": "1"}, {"introduced": "3"}, {"fixed": "4"}), ""),
    ],
)
def test_ranges_are_evaluated_as_the_format_says(events: tuple[Json, ...], expected: str, tmp_path: Path) -> None:
    found = answers(
        report_vulnerabilities(inventory(TORCH), osv(tmp_path, osv_record("P-1", "PyPI", "torch", *events)))
    )
    assert found == ({"P-1": expected} if expected else {})


def test_listed_versions_semver_and_alpine_match_in_their_own_order(tmp_path: Path) -> None:
    busybox = InstalledPackage(PackageKind.APK, "ssl_client", "1.36.1-r9", "x86_64", "busybox", "1.36.1-r9")
    folder = osv(
        tmp_path,
        osv_record("P-1", "PyPI", "torch", versions=("2.9.0",)),
        osv_record("N-1", "npm", "left-pad", {"introduced": "1.3.0-rc.1"}, {"fixed": "1.10.0"}, kind="SEMVER"),
        osv_record("A-1", "Alpine:v3.20", "busybox", {"introduced": "0"}, {"fixed": "1.36.1-r29"}),
        osv_record("G-1", "PyPI", "torch", {"introduced": "0"}, kind="GIT"),
    )
    alpine = OperatingSystem("alpine", "3.20.3")
    report = report_vulnerabilities(inventory(TORCH, LEFT_PAD, busybox, system=alpine), folder)
    assert answers(report) == {"P-1": "no-fix", "N-1": "fixed 1.10.0", "A-1": "fixed 1.36.1-r29"}


def test_records_of_one_vulnerability_are_one_finding(tmp_path: Path) -> None:
    critical = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]
    folder = osv(
        tmp_path,
        osv_record("GHSA-1", "PyPI", "torch", {"introduced": "0"}, aliases=["CVE-7"], severity=critical),
        osv_record("PYSEC-1", "PyPI", "torch", {"introduced": "0"}, {"fixed": "3"}, aliases=["CVE-7", "GHSA-1"]),
        osv_record("PYSEC-2", "PyPI", "torch", {"introduced": "0"}, withdrawn="2026-01-01T00:00:00Z"),
    )
    [finding] = report_vulnerabilities(inventory(TORCH), folder).findings
    assert (finding.id, finding.fixed) == ("CVE-7", "3")
    assert finding.aliases == {"GHSA-1", "PYSEC-1"}
    assert finding.severity is Severity.CRITICAL


def test_packages_without_data_are_counted_and_without_any_data_it_is_an_error(tmp_path: Path) -> None:
    folder = osv(tmp_path, osv_record("P-1", "PyPI", "other", {"introduced": "0"}))
    rpm = InstalledPackage(PackageKind.RPM, "bash", "1", "x86_64", "bash", "1")
    report = report_vulnerabilities(inventory(TORCH, LIBSSL, OPENSSL, LEFT_PAD, rpm), folder)
    assert report.uncovered == {"deb": 1, "npm": 1, "rpm": 1}
    assert report.findings == []
    with pytest.raises(VulnerabilityDataError, match="has no data about packages of this image: npm"):
        report_vulnerabilities(inventory(LEFT_PAD), folder)
    assert report_vulnerabilities(inventory(), folder).findings == []


def test_versions_that_cannot_be_compared_are_listed(tmp_path: Path) -> None:
    folder = osv(
        tmp_path,
        osv_record("P-1", "PyPI", "torch", {"introduced": "0"}, {"fixed": "a b"}),
        osv_record("P-2", "PyPI", "odd", {"introduced": "0"}),
    )
    odd = InstalledPackage(PackageKind.PYPI, "odd", "2004a.fix")
    report = report_vulnerabilities(inventory(TORCH, odd), folder)
    assert report.uncompared == ["odd 2004a.fix", "torch 2.9.0"]


def test_gate_counts_only_what_has_a_fix_and_is_severe_enough(tmp_path: Path) -> None:
    folder = tracker(
        tmp_path,
        **{
            "CVE-1": tracker_entry(bookworm=release("open", urgency="high")),
            "CVE-2": tracker_entry(bookworm=release("resolved", "99", "medium")),
            "CVE-3": tracker_entry(bookworm=release("resolved", "99")),
        },
    )
    report = report_vulnerabilities(inventory(OPENSSL), folder)
    gated = {level: [each.id for each in report.find_fixable(level)] for level in Severity}
    assert gated[Severity.HIGH] == []
    assert gated[Severity.MEDIUM] == gated[Severity.LOW] == ["CVE-2"]
    assert gated[Severity.UNKNOWN] == ["CVE-2", "CVE-3"]


def test_age_is_that_of_the_oldest_source_in_use(tmp_path: Path) -> None:
    folder = osv(
        tracker(tmp_path),
        osv_record("P-1", "PyPI", "torch", modified="2001-01-01T00:00:00Z"),
        osv_record("P-2", "PyPI", "else", modified="2002-01-01T00:00:00.123456789Z"),
        osv_record("N-1", "npm", "x", modified="1999-01-01T00:00:00Z"),
    )
    os.utime(folder / "debian.json", (time.time(), time.time() - 3 * 86_400))
    assert report_vulnerabilities(inventory(OPENSSL), folder).age_days() == pytest.approx(3, abs=0.1)
    report = report_vulnerabilities(inventory(OPENSSL, TORCH), folder)
    assert report.newest["PyPI"] == pytest.approx(1_009_843_200.1, abs=0.1)
    assert set(report.newest) == {"PyPI", "Debian tracker"}


def test_records_are_read_from_archives_and_lists(tmp_path: Path) -> None:
    data_file(tmp_path / "list.json", [osv_record("P-1", "PyPI", "torch", {"introduced": "0"})])
    record = data_file(tmp_path.parent / "record.json", osv_record("N-1", "npm", "left-pad", {"introduced": "0"}))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(record, "npm/N-1.json")
        archive.writestr("README", "not a record")
    assert set(answers(report_vulnerabilities(inventory(TORCH, LEFT_PAD), tmp_path))) == {"P-1", "N-1"}


def test_vex_mutes_with_a_reason_and_the_latest_statement_counts(tmp_path: Path) -> None:
    names = ("CVE-1", "CVE-2", "CVE-3", "CVE-4", "CVE-5", "CVE-6", "CVE-7")
    folder = tracker(tmp_path / "data", **{name: tracker_entry(bookworm=release("open")) for name in names})
    statements = read_vex(
        vex_document(
            tmp_path / "a.json",
            vex_statement("CVE-1", "pkg:deb/debian/openssl"),
            vex_statement("CVE-2", "pkg:deb/debian/libssl3@3.0.11-1?arch=amd64"),
            vex_statement("CVE-3", "pkg:deb/debian/openssl@9"),
            vex_statement("CVE-4", "pkg:generic/mine@2"),
            vex_statement("CVE-5", "pkg:generic/other"),
            vex_statement("CVE-6", "pkg:deb/debian/openssl", status="affected", timestamp="2026-11-03T00:00:00Z"),
            vex_statement("CVE-6", "pkg:deb/debian/openssl", status="fixed"),
            vex_statement("CVE-7", "pkg:deb/debian/openssl", status="under_investigation"),
        )
    )
    report = report_vulnerabilities(inventory(LIBSSL, OPENSSL), folder, statements)
    assert {each.id for each in report.open_findings} == {"CVE-3", "CVE-5", "CVE-6", "CVE-7"}
    reasons = {each.id: each.muted for each in report.findings if each.muted}
    assert reasons == dict.fromkeys(("CVE-1", "CVE-2", "CVE-4"), "component_not_present")


def test_vex_statement_names_a_component_of_the_image_or_an_alias(tmp_path: Path) -> None:
    folder = osv(tmp_path, osv_record("GHSA-1", "npm", "@a/b", {"introduced": "0"}, aliases=["CVE-1"]))
    scoped = InstalledPackage(PackageKind.NPM, "@a/b", "1.0.0")
    product = {"@id": "pkg:generic/mine", "subcomponents": [{"@id": "pkg:npm/%40a/b@1.0.0"}]}
    statement = vex_statement("GHSA-1") | {"products": [product], "impact_statement": "never\x1b called"}
    statement.pop("justification")
    vex = read_vex(vex_document(tmp_path.parent / "b.json", statement))
    assert [each.muted for each in report_vulnerabilities(inventory(scoped), folder, vex).findings] == ["never called"]


@pytest.mark.parametrize(
    ("vector", "score", "severity"),
    [
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0, Severity.CRITICAL),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8, Severity.CRITICAL),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1, Severity.MEDIUM),
        ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.8, Severity.HIGH),
        ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N", 1.6, Severity.LOW),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0, Severity.UNKNOWN),
        ("CVSS:3.1/AV:N/AC:L", None, Severity.UNKNOWN),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", None, Severity.UNKNOWN),
    ],
)
def test_scores_are_those_of_the_examples_of_cvss(vector: str, score: float | None, severity: Severity) -> None:
    assert cvss3_score(vector) == score
    assert severity_of_vector(vector) is severity


def test_words_of_databases_are_severities() -> None:
    words = ("MODERATE", "low**", "Important", "not yet assigned", None, 7)
    expected = [Severity.MEDIUM, Severity.LOW, Severity.HIGH, *[Severity.UNKNOWN] * 3]
    assert [severity_of_word(each) for each in words] == expected
