"""Generate the recipe of a committed image: a profile that reproduces the session.

Its base is the session's own profile. Packages become `apt` and `pip`, and small texts `files`. Commands for the rest
(links, directories, owners, deletions) become `post`. Comments name what no profile can reproduce, such as programs
that were compiled in the session: the image has them, the recipe would not make them.
"""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import yaml
from pydantic import TypeAdapter, ValidationError

from profiles.image.overlayfs import EntryKind
from profiles.recipe.spec import AptPackage, File, PipPackage
from profiles.recipe.yaml_document import MAX_BYTES
from profiles.userfile import read_bytes

if TYPE_CHECKING:
    from profiles.commit.findings import ChangedPath, Findings
    from profiles.image.store import Image
    from profiles.recipe.check import ProfileCheck

MAX_FILE_BYTES = 64 * 1024
"""Limit for a file whose text the recipe repeats."""

MAX_TEXT_BYTES = MAX_BYTES - 32 * 1024
"""Limit for all texts together: a profile has a limit, and has other content too."""

MAX_FILES = 300
MAX_COMMENTS = 200
_MAX_COMMENT_CHARACTERS = 120

_APT, _PIP = TypeAdapter[str](AptPackage), TypeAdapter[str](PipPackage)
_NEVER_REPEATED = ("/etc/shadow", "/etc/gshadow")
"""Files whose content no recipe repeats."""


def generate_recipe(name: str, version: str, base: Image, findings: Findings, heading: str, *, owner: str = "") -> str:
    """Return the recipe of `name`@`version`. `heading` is a line about its origin.

    profiles.recipe.spec.parse_profile can read the result. Resources, persistence, binds, services and checks
    are those of the base's profile. The environment is not repeated, since an image has that of its base.
    """
    recipe = _Recipe()
    old = base.profile
    apt = [f"{package}={number}" for package, number in findings.by_hand]
    apt += [f"{package}={now}" for package, _, now in findings.changed if package not in dict(findings.by_hand)]
    pip = [f"{package}=={number}" for package, number in findings.pip]
    if findings.removed:
        packages = [package for package, _ in findings.removed]
        recipe.post.append(f"apt-get -q -y purge {shlex.join(packages)}")
    recipe.post += [command for line in findings.accounts if (command := _account_command(line))]
    for change in findings.files:
        recipe.tell(change)
    data = {
        "name": name,
        "version": version,
        "description": old.description,
        "base": f"profile:{owner}{base.name}@{base.version}",
        "apt": recipe.keep_valid(_APT, apt),
        "pip": recipe.keep_valid(_PIP, pip),
        "files": recipe.files,
        "post": recipe.script(),
        "resources": old.model_dump(mode="json")["resources"],
        "persistence": old.persistence.model_dump(mode="json", exclude_defaults=True),
        "idle": old.idle,
        "continuation": old.continuation,
        "binds": old.model_dump(mode="json")["binds"],
        "services": [each.model_dump(mode="json", exclude_defaults=True) for each in old.services],
        "checks": [_check(each) for each in old.checks],
    }
    said = {key: value for key, value in data.items() if value}
    body = yaml.dump(said, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return f"{_comment_lines([heading, *recipe.comments()])}{body}"


def _check(check: ProfileCheck) -> dict[str, object]:
    data = check.model_dump(mode="json", exclude_defaults=True)
    return data | ({"time_limit": f"{check.time_limit:g}s"} if "time_limit" in data else {})


class _Recipe:
    """Puts each change into the part of a profile that can express it."""

    def __init__(self) -> None:
        self.files: list[dict[str, str]] = []
        self.post: list[str] = []
        self._bytes = 0
        self._untold: list[str] = []

    def tell(self, change: ChangedPath) -> None:
        """Express one change as a file, as a command, or as a comment."""
        command = _change_command(change)
        if change.kind == EntryKind.FILE and change.change != "D":
            text = self._text(change)
            if text is None:
                self._untold.append(f"{change.path} ({change.size} bytes)")
                return
            self._bytes += _size_in_profile(text)
            mode = change.mode & 0o777
            self.files.append({"destination": change.path, "content": text, "mode": f"{mode:04o}"})
        if command and self._bytes + _size_in_profile(command) > MAX_TEXT_BYTES:
            self._untold.append(change.path)
        elif command:
            self._bytes += _size_in_profile(command)
            self.post.append(command)

    def keep_valid(self, kind: TypeAdapter[str], words: list[str]) -> list[str]:
        """Return the words that a profile accepts."""
        good = []
        for word in words:
            try:
                good.append(kind.validate_python(word))
            except ValidationError:
                self._untold.append(f"package {word}")
        return good

    def script(self) -> str:
        return "".join(f"{command}\n" for command in self.post)

    def comments(self) -> list[str]:
        if not self._untold:
            return []
        more = len(self._untold) - MAX_COMMENTS
        return [
            "",
            "In the image, but not made by this recipe:",
            *(f"  {each}" for each in self._untold[:MAX_COMMENTS]),
            *([f"  and {more} more"] if more > 0 else []),
        ]

    def _text(self, change: ChangedPath) -> str | None:
        """Read a small text that a profile can hold."""
        if change.size > MAX_FILE_BYTES or len(self.files) >= MAX_FILES:
            return None
        if change.path.rstrip("-") in _NEVER_REPEATED:
            return None
        try:
            text = read_bytes(change.source, MAX_FILE_BYTES, own=False).decode()
            File(destination=change.path, content=text)
        except (OSError, UnicodeDecodeError, ValidationError):
            return None
        plain = all(char.isprintable() or char in "\n\t" for char in text)
        return text if plain and self._bytes + _size_in_profile(text) <= MAX_TEXT_BYTES else None


def _account_command(line: str) -> str:
    """Return the command that makes a group or user, unless a package has made it; empty for any other line."""
    match [shlex.quote(part) for part in line.split(":")]:
        case [name, _, gid, _] if gid.isdigit():
            return f"getent group {name} >/dev/null || groupadd -g {gid} {name}"
        case [name, _, uid, gid, comment, home, shell] if uid.isdigit() and gid.isdigit():
            more = f"-c {comment} -d {home} -s {shell}"
            return f"getent passwd {name} >/dev/null || useradd -M -u {uid} -g {gid} {more} {name}"
    return ""


def _change_command(change: ChangedPath) -> str:
    """Return the command that turns the base's path into the changed one; empty if a file's text is enough."""
    if not change.path.isprintable():
        return ""
    path = shlex.quote(change.path)
    if change.change == "D":
        return f"rm -rf -- {path}"
    owner = f"{change.uid}:{change.gid}"
    match change.kind:
        case EntryKind.SYMLINK:
            parent = shlex.quote(str(PurePosixPath(change.path).parent))
            return f"mkdir -p -- {parent} && ln -sfn -- {shlex.quote(change.target)} {path}"
        case EntryKind.DIRECTORY:
            return f"install -d -o {change.uid} -g {change.gid} -m {change.mode:04o} -- {path}"
        case _:
            commands = [f"chown {owner} -- {path}"] if owner != "0:0" else []
            if change.mode > 0o777:
                commands.append(f"chmod {change.mode:04o} -- {path}")
            return " && ".join(commands)


def _size_in_profile(text: str) -> int:
    """Return the bytes of a text in a profile, where it is quoted and indented."""
    return len(yaml.dump(text, Dumper=_Dumper, allow_unicode=True).encode()) + 8 * text.count("\n") + 80


def _comment_lines(lines: list[str]) -> str:
    return "".join(f"# {_escape(line)[:_MAX_COMMENT_CHARACTERS]}".rstrip() + "\n" for line in lines)


def _escape(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as people do, where YAML allows it."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text and not any(line != line.rstrip() for line in text.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent)
