"""Match source packages with the data of Debian's security tracker (security-tracker.debian.org/tracker/data/json).

For each source package and vulnerability the tracker has one entry for each suite: its status, the version that fixes
it, and whether Debian will fix it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiles.vulnerabilities.finding import FindingAnswer, VulnerabilityFinding
from profiles.vulnerabilities.severity import severity_of_word
from profiles.vulnerabilities.version_order import dpkg_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from profiles.vulnerabilities.finding import AffectedPackage
    from profiles.vulnerabilities.vulnerability_data import VulnerabilityData

TRACKER = "Debian tracker"
_MAX_SUMMARY = 300


def match_tracker(package: AffectedPackage, suite: str, data: VulnerabilityData) -> Iterator[VulnerabilityFinding]:
    """Yield the findings of one source package. UncomparableVersionError for a version that is none of dpkg's."""
    for identifier, entry in data.tracker.get(package.name, {}).items():
        summary = short_summary(entry.get("description"))
        release = entry["releases"].get(suite)
        if release is None:
            if suite not in data.suites:
                severity = severity_of_word("")
                yield VulnerabilityFinding(
                    package, identifier, frozenset(), FindingAnswer.UNKNOWN_SUITE, severity, summary
                )
            continue
        severity = severity_of_word(release.get("urgency"))
        fixed = str(release.get("fixed_version", ""))
        if release["status"] == "resolved":
            if fixed != "0" and dpkg_key(package.version) < dpkg_key(fixed):
                yield VulnerabilityFinding(
                    package, identifier, frozenset(), FindingAnswer.FIXED, severity, summary, fixed
                )
            continue
        answer = FindingAnswer.IGNORED if _is_ignored(release) else FindingAnswer.NO_FIX
        yield VulnerabilityFinding(package, identifier, frozenset(), answer, severity, summary)


def _is_ignored(release: dict[str, Any]) -> bool:
    return release.get("urgency") in {"unimportant", "end-of-life"} or release.get("nodsa_reason") == "ignored"


def short_summary(text: object) -> str:
    """Return the beginning of a description, on one line and without control characters."""
    line = " ".join(text.split()) if isinstance(text, str) else ""
    return "".join(char for char in line if char.isprintable())[:_MAX_SUMMARY]
