"""Match packages with records in the OSV format (ossf.github.io/osv-schema)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiles.inventory.model import PackageKind
from profiles.vulnerabilities.debian_tracker import short_summary
from profiles.vulnerabilities.finding import FindingAnswer, VulnerabilityFinding
from profiles.vulnerabilities.severity import Severity, severity_of_vector, severity_of_word
from profiles.vulnerabilities.version_order import order_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from profiles.inventory.model import OperatingSystem
    from profiles.vulnerabilities.finding import AffectedPackage
    from profiles.vulnerabilities.version_order import SortKey
    from profiles.vulnerabilities.vulnerability_data import OsvRecord, VulnerabilityData

_RANGES = {"ECOSYSTEM", "SEMVER"}
"""Types of ranges whose events are versions; those of GIT are commits."""


def ecosystem_of(kind: PackageKind, system: OperatingSystem) -> str:
    """Return OSV's name of the ecosystem; empty if OSV has none, or none that is matched here."""
    distributions = {
        (PackageKind.DEB, "debian"): "Debian",
        (PackageKind.DEB, "ubuntu"): "Ubuntu",
        (PackageKind.APK, "alpine"): "Alpine",
    }
    languages = {PackageKind.PYPI: "PyPI", PackageKind.NPM: "npm"}
    return languages.get(kind) or distributions.get((kind, system.id), "")


def release_of(ecosystem: str, system: OperatingSystem) -> str:
    """Return what OSV calls the image's release; empty where an ecosystem has no releases."""
    if ecosystem == "Alpine":
        return "v" + ".".join(system.version.split(".")[:2])
    return system.version if ecosystem in {"Debian", "Ubuntu"} else ""


def match_osv(
    package: AffectedPackage, ecosystem: str, system: OperatingSystem, data: VulnerabilityData
) -> Iterator[VulnerabilityFinding]:
    """Yield the findings of one package. UncomparableVersionError for versions that cannot be compared."""
    order = order_of(package.kind)
    assert order is not None  # packages without an order have no ecosystem
    wanted = release_of(ecosystem, system)
    known = data.releases_of(ecosystem)
    for record in data.osv.get((ecosystem, package.name), []):
        for affected in record["affected"]:
            about = affected.get("package") or {}
            base, _, release = str(about.get("ecosystem", "")).partition(":")
            if (base, about.get("name")) != (ecosystem, package.name):
                continue
            release = release.partition(":")[0]
            if release and release != wanted:
                if wanted not in known:
                    yield _finding(package, record, affected, FindingAnswer.UNKNOWN_SUITE)
                    break
                continue
            fixed = _fixed_version(package.version, affected, order)
            if fixed is not None:
                yield _finding(package, record, affected, FindingAnswer.FIXED if fixed else FindingAnswer.NO_FIX, fixed)
                break


def _finding(
    package: AffectedPackage, record: OsvRecord, affected: OsvRecord, answer: FindingAnswer, fixed: str = ""
) -> VulnerabilityFinding:
    upstream = record.get("upstream", [])  # several for an advisory that sums up vulnerabilities with their own records
    names = {record["id"], *map(str, record.get("aliases", [])), *map(str, upstream if len(upstream) == 1 else [])}
    identifier = min(names, key=lambda name: (not name.startswith("CVE-"), name != record["id"], name))
    own = affected.get("ecosystem_specific") or {}
    if answer is FindingAnswer.NO_FIX and own.get("urgency") in {"unimportant", "end-of-life"}:
        answer = FindingAnswer.IGNORED
    summary = short_summary(record.get("summary") or record.get("details"))
    return VulnerabilityFinding(
        package, identifier, frozenset(names - {identifier}), answer, _severity(record, own), summary, fixed
    )


def _severity(record: OsvRecord, own: OsvRecord) -> Severity:
    vectors = (each.get("score") for each in record.get("severity", []))
    words = (own.get("severity"), own.get("urgency"), (record.get("database_specific") or {}).get("severity"))
    return max((*map(severity_of_vector, vectors), *map(severity_of_word, words)), default=Severity.UNKNOWN)


def _fixed_version(version: str, affected: OsvRecord, order: Callable[[str], SortKey]) -> str | None:
    """Return the first later version that is not affected; empty if there is none, None if `version` is not affected.

    As the format's own evaluation: a listed version is affected, and one between `introduced` and the next `fixed`, or
    up to and with `last_affected`.
    """
    own = order(version)
    ranges = [each for each in affected.get("ranges", []) if each["type"] in _RANGES]
    events = [_events(each, order) for each in ranges]
    is_affected = version in affected.get("versions", []) or any(_is_within(own, each) for each in events)
    if not is_affected:
        return None
    later = [(key, text) for each in events for key, kind, text in each if kind == "fixed" and key > own]
    return min(later)[1] if later else ""


def _events(each: OsvRecord, order: Callable[[str], SortKey]) -> list[tuple[SortKey, str, str]]:
    """Return the events of a range in the order of their versions; the beginning of all versions comes first."""
    found = []
    for event in each["events"]:
        for kind, text in event.items():
            if kind in {"introduced", "fixed", "last_affected"}:
                key: SortKey = () if text == "0" else order(text)
                found.append((key, kind, text))
    return sorted(found, key=lambda event: (event[0], event[1] != "introduced"))


def _is_within(own: SortKey, events: list[tuple[Any, str, str]]) -> bool:
    inside = False
    for key, kind, _ in events:
        if kind == "introduced" and own >= key:
            inside = True
        elif (kind == "fixed" and own >= key) or (kind == "last_affected" and own > key):
            inside = False
    return inside
