"""Compare a session's system with its image. This runs as root of the image's tree, which may read all of it."""

from __future__ import annotations

import csv
import filecmp
import hashlib
import os
import re
import stat
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from profiles.commit.filters import is_below, matches_any, transient_kind
from profiles.commit.findings import ChangedPath, Findings, LeftOut
from profiles.commit.secrets import HEAD_BYTES
from profiles.image import dpkg
from profiles.image.overlayfs import EntryKind, MergedEntry

if TYPE_CHECKING:
    from pathlib import Path

    from profiles.commit.filters import PathFilter
    from profiles.image.layered_tree import LayeredTree

_ACCOUNTS = tuple(f"etc/{name}{copy}" for name in ("group", "gshadow", "passwd", "shadow") for copy in ("", "-"))
"""Files that are compared line by line."""

BYPRODUCTS = (
    "etc/alternatives",
    "etc/rc?.d",
    "etc/shells",
    "etc/ssl/certs",
    "etc/subgid",
    "etc/subgid-",
    "etc/subuid",
    "etc/subuid-",
    "etc/systemd/*.wants",
    "usr/share/applications/mimeinfo.cache",
    "usr/share/glib-2.0/schemas/gschemas.compiled",
    "usr/share/icons/*/icon-theme.cache",
    "usr/share/info/dir",
    "usr/share/mime",
    "var/lib/systemd",
    "var/lib/shells.state",
    "var/lib/ucf",
)
"""Files that the scripts of packages write. They are no changes of the user where packages have changed."""

MANAGER_STATE = (
    "etc/.pwd.lock",
    "etc/ld.so.cache",
    "var/cache",
    "var/lib/apt",
    "var/lib/dpkg",
    "*/__pycache__",
    "*.pyc",
    *_ACCOUNTS,
)
"""State of package managers and programs, which is no change of the user."""

PATH_TOO_LONG = "its path is too long for system calls"

_DIST_INFO = re.compile(r"(?P<folder>.+)/(?P<name>[A-Za-z0-9._]+)-(?P<version>[^-/]+)\.dist-info")


def compare_system(system: LayeredTree, path_filter: PathFilter) -> Findings:
    """Return the changes. Raises OSError for what cannot be read."""
    before, now = dpkg.read_packages(system.text_before), dpkg.read_packages(system.text)
    added = sorted(now.keys() - before.keys())
    removed = sorted(before.keys() - now.keys())
    changed = sorted(name for name in before.keys() & now.keys() if before[name].version != now[name].version)
    asked = (now.keys() - dpkg.automatic_packages(system.text)) - (
        before.keys() - dpkg.automatic_packages(system.text_before)
    )
    pip, theirs = _find_python_packages(system)
    owned = dpkg.packaged_files(system.text, [now[name] for name in (*added, *changed)], system.real_path)
    owned |= dict.fromkeys(theirs - owned.keys(), "")
    lost = dpkg.packaged_files(system.text_before, [before[name] for name in (*removed, *changed)], system.real_path)
    findings = Findings(
        added=[(name, now[name].version) for name in added],
        removed=[(name, before[name].version) for name in removed],
        changed=[(name, before[name].version, now[name].version) for name in changed],
        by_hand=[(name, now[name].version) for name in sorted(asked)],
        pip=pip,
        accounts=[*_new_lines(system, "etc/group"), *_new_lines(system, "etc/passwd")],
        unmatched=[
            each
            for each in (*path_filter.include, *path_filter.exclude)
            if not any(matches_any(path, [each]) for path in system.entries)
        ],
    )
    quiet = (*MANAGER_STATE, *(BYPRODUCTS if added or removed or changed else ()))
    return _sort_paths(system, path_filter, findings, _PackageFiles(owned, lost.keys() - owned.keys(), quiet))


class _PackageFiles:
    """The files of packages that were added, changed or removed."""

    def __init__(self, owned: dict[str, str], lost: set[str], quiet: tuple[str, ...]) -> None:
        self.owned = owned
        """MD5 by path, empty if it is not known."""
        self.lost = lost
        self.quiet = quiet

    def has(self, path: str, source: Path | None) -> bool:
        """Whether the file at `path` equals its package's, or is one that packages make or remove."""
        if source is None:
            return path in self.lost or matches_any(path, self.quiet)
        if path in self.owned:
            return not self.owned[path] or self.is_as_packed(path, source)
        return matches_any(path, self.quiet)

    def is_as_packed(self, path: str, source: Path) -> bool:
        """Whether a file has the very content that its package came with."""
        md5 = self.owned.get(path, "")
        if not md5 or not stat.S_ISREG(source.lstat().st_mode):
            return False
        with source.open("rb") as file:
            return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest() == md5


def _sort_paths(system: LayeredTree, path_filter: PathFilter, findings: Findings, packaged: _PackageFiles) -> Findings:
    """Put every path of the layers into its list."""
    of_packages = 0
    left_out: dict[str, LeftOut] = {}
    top = ""
    for entry in system.entries.values():
        if why := _exclusion_reason(entry, path_filter, packaged):
            if not (top and is_below(entry.path, top)):
                top = entry.path  # of a directory that is left out everything is
            if entry.opaque or not _is_in_image(system, entry):
                left_out.setdefault(top, LeftOut(f"/{top}", why))
            continue
        for path in system.hidden_paths(entry):
            if packaged.has(path, None):
                of_packages += 1
            else:
                findings.files.append(ChangedPath(f"/{path}", "D"))
        if entry.source is None or _is_in_image(system, entry):
            continue
        if packaged.has(entry.path, entry.source) or (entry.kind is EntryKind.DIRECTORY and transient_kind(entry.path)):
            of_packages += 1
        else:
            findings.files.append(_changed_path(system, entry, entry.source))
    return replace(
        findings,
        files=_drop_nested(findings.files, system),
        of_packages=of_packages,
        left_out=[*left_out.values(), *(LeftOut(f"/{path}", PATH_TOO_LONG) for path in system.too_long)],
    )


def _drop_nested(changes: list[ChangedPath], system: LayeredTree) -> list[ChangedPath]:
    """Sort by path, without the content of deleted directories and without ordinary new directories with content."""
    told: list[ChangedPath] = []
    gone = ""
    parents = {f"/{path.rpartition('/')[0]}" for path in system.entries}
    for each in sorted(changes, key=lambda each: os.fsencode(each.path).split(b"/")):
        if each.change == "D":
            if gone and is_below(each.path, gone):
                continue
            gone = each.path
        plain = (each.change, each.kind, each.mode, each.uid, each.gid) == ("A", EntryKind.DIRECTORY, 0o755, 0, 0)
        if not (plain and each.path in parents):
            told.append(each)
    return told


def _exclusion_reason(entry: MergedEntry, path_filter: PathFilter, packaged: _PackageFiles) -> str:
    source = entry.source
    if entry.kind is EntryKind.OTHER:
        return "neither file, folder nor link"
    public = entry.kind is not EntryKind.FILE or source is None or packaged.is_as_packed(entry.path, source)
    head = None if public or source is None else partial(_read_head, source)
    return path_filter.why_not(entry.path, directory=entry.kind in {EntryKind.DIRECTORY, EntryKind.WHITEOUT}, head=head)


def _read_head(source: Path) -> bytes:
    with source.open("rb") as file:
        return file.read(HEAD_BYTES)


def _is_in_image(system: LayeredTree, entry: MergedEntry) -> bool:
    """Whether the image has the same already: content, kind, permissions and owner."""
    image = system.under(entry.path)
    if entry.source is None or image is None:
        return entry.source is None and image is None
    status, old = entry.source.lstat(), image.lstat()
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(old.st_mode):
        return False
    if entry.kind is EntryKind.SYMLINK:
        return entry.source.readlink() == image.readlink()
    owner = system.owner(entry, status)
    if (owner.uid, owner.gid, owner.mode) != (old.st_uid, old.st_gid, stat.S_IMODE(old.st_mode)):
        return False
    return entry.kind is not EntryKind.FILE or (
        status.st_size == old.st_size and filecmp.cmp(entry.source, image, shallow=False)
    )


def _changed_path(system: LayeredTree, entry: MergedEntry, source: Path) -> ChangedPath:
    status = source.lstat()
    owner = system.owner(entry, status)
    return ChangedPath(
        path=f"/{entry.path}",
        change="A" if system.under(entry.path) is None else "M",
        kind=entry.kind,
        uid=owner.uid,
        gid=owner.gid,
        mode=owner.mode,
        size=status.st_size if entry.kind is EntryKind.FILE else 0,
        target=str(source.readlink()) if entry.kind is EntryKind.SYMLINK else "",
        source=str(source) if entry.kind is EntryKind.FILE else "",
    )


def _new_lines(system: LayeredTree, file: str) -> list[str]:
    """List the lines of accounts that the image does not have like that, whatever their password field.

    Debian's package `passwd` changes that field in all lines, when it moves passwords to /etc/shadow.
    """
    old = {_without_password(line) for line in (system.text_before(file) or "").split("\n")}
    return [line for line in (system.text(file) or "").split("\n") if line and _without_password(line) not in old]


def _without_password(line: str) -> str:
    """Return a line of passwd(5) or group(5) without its second field."""
    name, _, rest = line.partition(":")
    return f"{name}:{rest.partition(':')[2]}"


def _find_python_packages(system: LayeredTree) -> tuple[list[tuple[str, str]], set[str]]:
    """Find the Python packages of the layers, and the paths that their records name (PEP 376, RECORD)."""
    packages, paths = set[tuple[str, str]](), set[str]()
    debians = re.compile(r"usr/lib/python3[^/]*/dist-packages")
    for entry in system.entries.values():
        match = _DIST_INFO.fullmatch(entry.path)
        if entry.kind is not EntryKind.DIRECTORY or match is None or debians.fullmatch(match["folder"]):
            continue
        if (record := system.text(f"{entry.path}/RECORD")) is None:
            continue
        packages.add((match["name"], match["version"]))
        for row in csv.reader(record.splitlines()):
            if row:
                paths.add(os.path.normpath(f"{match['folder']}/{row[0]}"))
    folders = {folder for path in paths for folder in _parents(path)}
    return sorted(packages), paths | (folders & system.entries.keys())


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
