"""Select the files of a session's system that belong into an image.

Left out are those of the machine and of the moment, and secrets.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from profiles.commit import secrets
from profiles.errors import PatternError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NEVER_COMMITTED = ("dev", "home", "proc", "run", "sys", "tmp", "var/tmp", ".singularity.d", "singularity")
"""Directories that are the machine's, the session's or Apptainer's, whatever is asked for."""

_MACHINE_FILES = {
    f"etc/{name}": "the machine's own" for name in ("hostname", "hosts", "machine-id", "mtab", "resolv.conf")
}

_MACHINE_FILES["etc/apt/apt.conf.d/95berth"] = "the session's own"

_TRANSIENT = (
    ("root/.cache", "a cache"),
    ("var/cache/apt", "a cache"),
    ("var/lib/apt/lists", "a cache"),
    ("var/log", "a log"),
    ("var/mail", "mail"),
    ("var/spool/mail", "mail"),
)
"""Directories whose files are left out; the directories themselves, which programs may want, are not."""


def is_below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or in it; both relative."""
    return path == directory or path.startswith(f"{directory}/")


def transient_kind(path: str) -> str:
    """Say what files in this place are, if it is one of logs, caches and the like; else nothing."""
    return next((what for place, what in _TRANSIENT if is_below(path, place)), "")


@dataclass(frozen=True, slots=True)
class PathFilter:
    """What goes in and what is left out; `include` and `exclude` are the user's own patterns, which say otherwise.

    A pattern is an absolute path in which `*`, `?` and `[…]` stand for what they stand for in a shell, `*` also for
    slashes; it is about everything below what it names, too. What both name is left out.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def check(self) -> None:
        """Raise PatternError for patterns that cannot be meant."""
        for pattern in (*self.include, *self.exclude):
            if not pattern.startswith("/") or len(pattern.strip("/")) == 0:
                raise PatternError(f"{pattern!r} is no absolute path below /")
        for pattern in self.include:
            for directory in NEVER_COMMITTED:
                if is_below(pattern.strip("/"), directory):
                    raise PatternError(
                        f"{pattern} cannot go into an image: /{directory} never does",
                        hint="put what every session should have elsewhere, such as below /opt",
                    )

    def why_not(self, path: str, *, directory: bool, head: Callable[[], bytes] | None) -> str:
        """Say why `path`, relative, is left out; empty if it goes in.

        `head` reads a file's beginning; None for what has no content that could be secret.
        """
        for place in NEVER_COMMITTED:
            if is_below(path, place):
                return "never part of an image"
        if matches_any(path, self.exclude):
            return "excluded"
        if matches_any(path, self.include):
            return ""
        if path in _MACHINE_FILES:
            return _MACHINE_FILES[path]
        if not directory and (what := transient_kind(path)):
            return what
        return f"may be secret: {what}" if head is not None and (what := secrets.find_secret(path, head)) else ""


def matches_any(path: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns names `path`, relative, or something that it is in."""
    for pattern in patterns:
        plain = pattern.strip("/")
        if fnmatchcase(path, plain) or fnmatchcase(path, f"{plain}/*"):
            return True
    return False
