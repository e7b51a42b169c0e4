"""`berth profile vulns`: known vulnerabilities of the packages in an image."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.inventory import load_inventory
from broker.cli.params import ProfileName
from broker.cli.stores import catalog_of, profile_errors, store_option
from broker.errors import BerthError, InvalidInputError
from broker.format import pluralize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.user_input import ProfileReference
    from profiles.image.store import Image
    from profiles.vulnerabilities.finding import VulnerabilityFinding
    from profiles.vulnerabilities.vulnerability_report import VulnerabilityReport

LEVELS = ("any", "low", "medium", "high", "critical")


@click.command()
@click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION]")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of OSV and Debian tracker files; default: profiles.vulnerability_data.",
)
@click.option(
    "--vex",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    help="OpenVEX statements, which mute findings with a reason. May be repeated.",
)
@click.option(
    "--fail-on",
    type=click.Choice(LEVELS),
    help="Exit code 1 if a vulnerability of at least this severity has a fix. `any` counts unknown severities too.",
)
@store_option
@json_option
@pass_invocation
def vulns(
    invocation: Invocation,
    wanted: ProfileReference,
    *,
    data: Path | None,
    vex: tuple[Path, ...],
    fail_on: str | None,
    store: Path | None,
) -> None:
    """Report known vulnerabilities of an image.

    Compares the packages of the image with files that the site provides, without a network. Packages of a distribution
    count by their source package and the release of the distribution. The first line has the age of the data.

    A finding has one of four answers: a version that fixes it, no fix yet, ignored by the distribution, or an unknown
    suite: the data say nothing about the image's release. The inventory of the image is that of `berth profile sbom`.

    \b
      berth profile vulns triton-xpu --fail-on high
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    with profile_errors():
        from profiles.vulnerabilities.openvex import read_vex
        from profiles.vulnerabilities.vulnerability_report import report_vulnerabilities

        folder = data or invocation.config.profiles.vulnerability_data
        if folder is None:
            raise InvalidInputError(
                "there is no folder with data about vulnerabilities",
                hint="name one with --data, or set profiles.vulnerability_data",
            )
        statements = [statement for file in vex for statement in read_vex(file)]
        image = catalog_of(invocation, store).find(wanted.name, wanted.version)
        inventory, is_new = load_inventory(invocation, image)
        report = report_vulnerabilities(inventory, folder, statements)
    if invocation.json:
        output.print_json(_as_json(image, report, is_new=is_new))
    else:
        _print(report)
    if fail_on is not None:
        _require_none(report, fail_on)


def _require_none(report: VulnerabilityReport, level: str) -> None:
    """Raise BerthError for findings that have a fix, and if packages were not compared: that is no pass."""
    from profiles.vulnerabilities.severity import Severity

    least = Severity.UNKNOWN if level == "any" else Severity[level.upper()]
    words = "any severity" if level == "any" else f"the severity {level} or above"
    if found := report.find_fixable(least):
        raise BerthError(
            f"{pluralize(len(found), 'finding')} of {words} can be fixed",
            hint="build the profile under another version, with the fixed packages",
        )
    if report.uncovered or report.uncompared:
        raise BerthError("not all packages were compared, so --fail-on cannot pass", hint="complete the data")


def _print(report: VulnerabilityReport) -> None:
    from profiles.vulnerabilities.finding import FindingAnswer
    from profiles.vulnerabilities.vulnerability_data import MAX_AGE_DAYS

    age = report.age_days()
    output.print_line(f"data: {', '.join(_sources(report)) or 'none'}")
    if age > MAX_AGE_DAYS:
        output.print_note(f"warning: the data are {int(age)} days old; fetch them again")
    for kind, number in report.uncovered.items():
        output.print_note(f"not compared: {pluralize(number, 'package')} of {kind}; the data have nothing about them")
    for package in report.uncompared:
        output.print_note(f"not compared: {package}: the version cannot be compared with that of a record")
    shown = [each for each in report.open_findings if each.answer is not FindingAnswer.UNKNOWN_SUITE]
    rows = [(each.package.name, each.package.version, each.id, _word(each), _answer(each)) for each in shown]
    unknown = Counter(each.package for each in report.open_findings if each.answer is FindingAnswer.UNKNOWN_SUITE)
    rows += [(each.name, each.version, f"{number} in all", "", "unknown suite") for each, number in unknown.items()]
    if rows:
        output.print_table(("PACKAGE", "VERSION", "VULNERABILITY", "SEVERITY", "ANSWER"), rows)
    output.print_note(", ".join(_summary(report)))


def _sources(report: VulnerabilityReport) -> Iterator[str]:
    """Yield each source and its age, the oldest first."""
    from profiles.vulnerabilities.vulnerability_data import age_days

    for source, newest in sorted(report.newest.items(), key=lambda each: each[1]):
        yield f"{source} {pluralize(int(age_days(newest)), 'day')} old"


def _word(finding: VulnerabilityFinding) -> str:
    return finding.severity.name.lower()


def _answer(finding: VulnerabilityFinding) -> str:
    from profiles.vulnerabilities.finding import FindingAnswer

    words = {
        FindingAnswer.FIXED: f"fixed in {finding.fixed}",
        FindingAnswer.NO_FIX: "no fix yet",
        FindingAnswer.IGNORED: "ignored by the distribution",
        FindingAnswer.UNKNOWN_SUITE: "unknown suite",
    }
    return words[finding.answer]


def _summary(report: VulnerabilityReport) -> Iterator[str]:
    from profiles.vulnerabilities.finding import FindingAnswer

    words = {
        FindingAnswer.FIXED: "with a fix",
        FindingAnswer.NO_FIX: "without a fix yet",
        FindingAnswer.IGNORED: "ignored by the distribution",
        FindingAnswer.UNKNOWN_SUITE: "of an unknown suite",
    }
    yield pluralize(len(report.open_findings), "finding")
    for answer, number in sorted(Counter(each.answer for each in report.open_findings).items()):
        yield f"{number} {words[answer]}"
    if muted := len(report.findings) - len(report.open_findings):
        yield f"{muted} more muted by VEX"


def _as_json(image: Image, report: VulnerabilityReport, *, is_new: bool) -> dict[str, object]:
    return {
        "name": image.name,
        "version": image.version,
        "digest": image.digest,
        "made_now": is_new,
        "data_age_days": round(report.age_days(), 2),
        "data": report.newest,
        "findings": [_finding(each) for each in report.open_findings],
        "muted": [_finding(each) | {"reason": each.muted} for each in report.findings if each.muted],
        "not_covered": report.uncovered,
        "not_compared": report.uncompared,
    }


def _finding(finding: VulnerabilityFinding) -> dict[str, object]:
    return {
        "package": finding.package.name,
        "kind": finding.package.kind.value,
        "version": finding.package.version,
        "installed": list(finding.package.installed),
        "id": finding.id,
        "aliases": sorted(finding.aliases),
        "severity": _word(finding),
        "answer": finding.answer.value,
        "fixed": finding.fixed,
        "summary": finding.summary,
    }
