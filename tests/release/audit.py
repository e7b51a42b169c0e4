"""Compare the locked dependencies with a database of known vulnerabilities, without a network: `make audit OSV=PATH`.

PATH is a directory or a zip file of OSV records (https://ossf.github.io/osv-schema). Exit code 0: no record of the
database concerns a locked version. 1: some do. 2: there was nothing to compare with, which is not a pass.
"""

from __future__ import annotations

import json
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from tests.release import locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

HOW = """\
`make audit OSV=PATH` compares the locked packages with a database of known vulnerabilities. Get the database on a
machine with Internet access, and bring the file here:

  curl -O https://osv-vulnerabilities.storage.googleapis.com/PyPI/all.zip
  make audit OSV=all.zip
"""
_FOUND, _NOT_DONE = 1, 2
_RANGES = {"ECOSYSTEM", "SEMVER"}
"""Types of ranges whose events are versions; those of GIT are commits, and such records list their versions as well."""


class DatabaseError(Exception):
    """The database cannot be read; the message is for the user."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A record that concerns a locked version."""

    package: str
    version: str
    record: str
    aliases: tuple[str, ...]
    fixed: str
    """The first later version that is not affected; empty if none is known."""
    summary: str

    @property
    def line(self) -> str:
        also = f" ({', '.join(self.aliases)})" if self.aliases else ""
        mend = f"fixed in {self.fixed}" if self.fixed else "no fixed version is known"
        return f"{self.package} {self.version}: {self.record}{also}: {self.summary or 'no summary'}; {mend}"


def main(arguments: list[str]) -> int:
    """Audit the lock files with the database that the one argument names; print what was found and return the code."""
    if len(arguments) != 1 or not arguments[0]:
        print(f"NOT AUDITED: no database was given.\n\n{HOW}", file=sys.stderr)
        return _NOT_DONE
    packages = {(each.name, each.version): each for lock in LOCKS for each in locked.read(lock)}
    try:
        database = list(records(Path(arguments[0])))
        findings = sorted(audit(packages.values(), database))
    except DatabaseError as error:
        print(f"NOT AUDITED: {error}\n\n{HOW}", file=sys.stderr)
        return _NOT_DONE
    for each in findings:
        print(each.line)
    newest = max(str(each.get("modified", "")) for each in database)
    print(
        f"{len(packages)} locked packages, {len(database)} records of the PyPI ecosystem, the newest of {newest}:"
        f" {len(findings) or 'no'} known vulnerabilities"
    )
    return _FOUND if findings else 0


LOCKS = (locked.RUNTIME, locked.DEVELOPMENT, locked.WORKFLOWS)


def records(database: Path) -> Iterator[dict[str, Any]]:
    """Yield the records that concern the PyPI ecosystem and were not withdrawn. DatabaseError if there is none, or for
    a file that is not a record: what it would have said is not known.
    """
    count = 0
    for name, content in _files(database):
        try:
            record = json.loads(content)
            concerned = "withdrawn" not in record and any(map(_is_of_pypi, record.get("affected", [])))
            if not isinstance(record["id"], str):
                raise TypeError("its id is no text")
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise DatabaseError(f"{name} in {database} is not an OSV record: {error}") from error
        if concerned:
            count += 1
            yield record
    if not count:
        raise DatabaseError(f"{database} has no record of the PyPI ecosystem")


def audit(packages: Iterable[locked.Locked], database: Iterable[dict[str, Any]]) -> Iterator[Finding]:
    """Yield what the database knows of these versions, once for each package and record."""
    by_name: dict[str, list[locked.Locked]] = {}
    for package in packages:
        by_name.setdefault(package.name, []).append(package)
    for record in database:
        try:
            yield from _findings(by_name, record)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise DatabaseError(f"the record {record.get('id')} cannot be understood: {error!r}") from error


def _findings(packages: Mapping[str, list[locked.Locked]], record: dict[str, Any]) -> Iterator[Finding]:
    affected: dict[str, list[dict[str, Any]]] = {}
    for each in filter(_is_of_pypi, record["affected"]):
        affected.setdefault(canonicalize_name(each["package"]["name"]), []).append(each)
    for name in affected.keys() & packages.keys():
        for package in packages[name]:
            if _is_affected(Version(package.version), affected[name]):
                yield Finding(
                    package=name,
                    version=package.version,
                    record=str(record["id"]),
                    aliases=tuple(sorted(map(str, record.get("aliases", [])))),
                    fixed=_fixed_after(Version(package.version), affected[name]),
                    summary=" ".join(str(record.get("summary", "")).split()),
                )


def _files(database: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each JSON file, in the order of the names."""
    try:
        if database.is_dir():
            for path in sorted(database.rglob("*.json")):
                yield path.name, path.read_bytes()
            return
        with zipfile.ZipFile(database) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".json"):
                    yield name, archive.read(name)
    except (OSError, zipfile.BadZipFile) as error:
        raise DatabaseError(f"{database} cannot be read as a directory or a zip file: {error}") from error


def _is_of_pypi(affected: dict[str, Any]) -> bool:
    # A suffix such as `PyPI:https://…` names another index with the same packages' names.
    return str(affected.get("package", {}).get("ecosystem", "")).partition(":")[0] == "PyPI"


def _is_affected(version: Version, affected: list[dict[str, Any]]) -> bool:
    """Evaluate a record as OSV's specification has it: by a list of versions, or by a range."""
    for each in affected:
        versions, ranges = each.get("versions", []), _ranges(each)
        if any(_parsed(one) == version for one in versions) or any(_is_within(version, one) for one in ranges):
            return True
        if not versions and not ranges:
            return True  # no version is named: nothing says that this one is not affected
    return False


def _ranges(affected: dict[str, Any]) -> list[list[dict[str, str]]]:
    return [each["events"] for each in affected.get("ranges", []) if each["type"] in _RANGES]


def _is_within(version: Version, events: list[dict[str, str]]) -> bool:
    """Whether the last event up to this version leaves it affected. A beginning that cannot be compared counts as the
    first version, such an end does not count: a doubtful record is shown rather than passed over.
    """
    limits = [_parsed(each["limit"]) for each in events if each.get("limit", "*") != "*"]
    if limits and not any(limit is None or version < limit for limit in limits):
        return False
    changes: list[tuple[Version, bool, bool]] = []
    for event in events:
        for kind, text in event.items():
            at = _parsed("0.dev0" if text == "0" else text)
            if kind == "introduced":
                changes.append((at or _FIRST, False, True))
            elif kind in {"fixed", "last_affected"} and at is not None:
                changes.append((at, kind == "last_affected", False))
    within = False
    for at, after, begins in sorted(changes):
        if version > at or (version == at and not after):
            within = begins
    return within


_FIRST = Version("0.dev0")
"""Older than every version that a package can have, but for its own prereleases of 0."""


def _fixed_after(version: Version, affected: list[dict[str, Any]]) -> str:
    """Give the first later version that is named as fixed and is not affected; empty if there is none."""
    fixes = {
        fixed
        for each in affected
        for events in _ranges(each)
        for event in events
        if (fixed := _parsed(event.get("fixed", ""))) is not None and fixed > version
    }
    return next((str(each) for each in sorted(fixes) if not _is_affected(each, affected)), "")


def _parsed(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
