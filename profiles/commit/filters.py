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
"""Directories of the machine, the session or Apptainer, which no pattern can include."""

CACHE = "a cache"
"""The reason for which files of caches are left out."""

MACHINE_FILES = {
    f"etc/{name}": "the machine's own" for name in ("hostname", "hosts", "machine-id", "mtab", "resolv.conf")
}

MACHINE_FILES["etc/apt/apt.conf.d/95berth"] = "the session's own"

_TRANSIENT = (
    ("root/.cache", CACHE),
    ("var/cache/apt", CACHE),
    ("var/lib/apt/lists", CACHE),
    ("var/log", "a log"),
    ("var/mail", "mail"),
    ("var/spool/mail", "mail"),
)
"""Directories whose files are left out. The directories themselves stay, since programs may need them."""


def is_below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or in it; both relative."""
    return path == directory or path.startswith(f"{directory}/")


def transient_kind(path: str) -> str:
    """Return the kind of files in this directory if it has logs, caches or the like; else an empty string."""
    return next((what for place, what in _TRANSIENT if is_below(path, place)), "")


@dataclass(frozen=True, slots=True)
class PathFilter:
    """Selects the files of an image. `include` and `exclude` are the user's own patterns, which override the defaults.

    A pattern is an absolute path in which `*`, `?` and `[…]` have their meaning of a shell, `*` also for slashes. It
    also matches everything below what it names. A path that both match is left out.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def check(self) -> None:
        """Raise PatternError for invalid patterns."""
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
        """Return why the relative `path` is left out; empty if it is included.

        `head` reads a file's beginning; None for an entry without content that could be secret.
        """
        for place in NEVER_COMMITTED:
            if is_below(path, place):
                return "never part of an image"
        if matches_any(path, self.exclude):
            return "excluded"
        if matches_any(path, self.include):
            return ""
        if path in MACHINE_FILES:
            return MACHINE_FILES[path]
        if not directory and (what := transient_kind(path)):
            return what
        return f"may be secret: {what}" if head is not None and (what := secrets.find_secret(path, head)) else ""


def matches_any(path: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns matches the relative `path` or one of its parents."""
    for pattern in patterns:
        plain = pattern.strip("/")
        if fnmatchcase(path, plain) or fnmatchcase(path, f"{plain}/*"):
            return True
    return False
