"""Parse values that users type, for the parameters of commands and for the forms of the terminal interface.

Each function returns the value for the API, or raises ValueError with a message that says which values are accepted.
"""

# ruff: noqa: PLC0415 - the command line imports what it needs when it runs (ADR 0071)

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.names import (
    FULL_NAME_PATTERN,
    GRANTEE_PATTERN,
    LABEL_PATTERN,
    MAX_ITEMS,
    MAX_PATH_CHARS,
    NAME_PATTERN,
    NODE_PATTERN,
    PERSISTENT_PATH_PATTERN,
    PROFILE_PATTERN,
    REFERENCE_PATTERN,
    USER_PATTERN,
    VERSION_PATTERN,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT = "default"
"""The word that selects the value of the profile or the site."""

NEVER = "never"

SIDES = ("home", "system")

MAX_DURATION_S = 3650 * 86400.0

_WRONG_PATH = (
    "is neither `home`, `system`, nor a path that begins with / or ~/ and has no comma, colon or backslash in it, and "
    f"at most {MAX_PATH_CHARS} characters"
)

_WRONG_LABEL = (
    "cannot be a label: labels begin with a letter and have up to 64 letters, digits, dots, hyphens and underscores"
)

_WRONG_NAME = "cannot be a name: names have 1 to 39 small letters, digits and hyphens and start with a letter"


@dataclass(frozen=True, slots=True)
class ProfileReference:
    """`NAME` for the newest version, or `NAME@VERSION`."""

    name: str
    """With the owner, if it is said: `own/NAME` or `site/NAME`."""
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def parse_name(text: str) -> str:
    """Return a session's name. The message for another text suggests a similar name."""
    if text.startswith("-"):
        raise ValueError(f"{text!r} is an option; put the session's name before sbatch's or ssh's options")
    if not re.fullmatch(NAME_PATTERN, text):
        raise ValueError(f"{text!r} {_WRONG_NAME}{_suggestion(text)}")
    return text


def parse_reference(text: str) -> str:
    """Return `NAME`, or `OWNER.NAME` for a session of another user."""
    if "." not in text or text.endswith(".berth") or not re.fullmatch(REFERENCE_PATTERN, text):
        return parse_name(text)
    return text


def parse_full_name(text: str) -> str:
    """Return `OWNER.NAME`, as an operator names a session."""
    if text.endswith(".berth") or not re.fullmatch(FULL_NAME_PATTERN, text):
        raise ValueError(f"{text!r} is not OWNER.NAME, as `berth admin list` shows it")
    return text


def parse_node(text: str) -> str:
    """Return the name of a node."""
    if not re.fullmatch(NODE_PATTERN, text):
        raise ValueError(f"{text!r} is not the name of one node")
    return text


def parse_user(text: str) -> str:
    """Return the name of a user."""
    if not re.fullmatch(USER_PATTERN, text):
        raise ValueError(f"{text!r} is not a user's name")
    return text


def parse_grantee(text: str) -> str:
    """Return the grantee of a grant: a user, or `@` and a Unix group."""
    if not re.fullmatch(GRANTEE_PATTERN, text):
        raise ValueError(f"{text!r} is neither a user's name nor @GROUP")
    return text


def parse_profile_reference(text: str) -> ProfileReference:
    """Return the profile in `NAME` or `NAME@VERSION`."""
    name, at, version = text.partition("@")
    if not re.fullmatch(PROFILE_PATTERN, name):
        raise ValueError(f"{name!r} {_WRONG_NAME}{_suggestion(name)}")
    if at and not re.fullmatch(VERSION_PATTERN, version):
        raise ValueError(f"{version!r} is not a version: use NAME or NAME@VERSION")
    return ProfileReference(name, version or None)


def parse_label(text: str) -> str:
    """Return a snapshot's label, which cannot be a number."""
    if not re.fullmatch(LABEL_PATTERN, text):
        raise ValueError(f"{text!r} {_WRONG_LABEL}")
    return text


def parse_snapshot(text: str) -> str:
    """Return a snapshot's number or label."""
    if not re.fullmatch(rf"[1-9][0-9]{{0,8}}|{LABEL_PATTERN[1:-1]}", text):
        raise ValueError(f"{text!r} is neither a snapshot's number nor a label; `berth snapshots NAME` lists them")
    return text


def parse_kept(text: str) -> str:
    """Return `home`, `system` (everything outside the home), or a path of either.

    A path below the user's home on this machine, to which the shell expands `~/…`, means the session's home.
    """
    if text in SIDES:
        return text
    here = os.path.expanduser("~").rstrip("/")  # noqa: PTH111 - a prefix of text, not a file
    path = f"~{text.removeprefix(here)}" if here and text.startswith(f"{here}/") else text
    path = path.rstrip("/")
    steps = path.split("/")[1:]
    wrong = not re.fullmatch(PERSISTENT_PATH_PATTERN, path) or set(steps) & {"", ".", ".."}
    if wrong or not is_utf8(path) or len(path) > MAX_PATH_CHARS:
        raise ValueError(f"{text!r} {_WRONG_PATH}")
    return path


def is_utf8(text: str) -> bool:
    """Whether the text can be sent to the controller: an argument of other bytes cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_persistence(keep: Sequence[str], fresh: Sequence[str]) -> dict[str, object] | None:
    """Return the persistence of parsed `--keep` and `--fresh` for the API; None without both options."""
    if not keep and not fresh:
        return None
    if max(len(keep), len(fresh)) > MAX_ITEMS:
        raise ValueError(f"more than {MAX_ITEMS} paths in --keep or in --fresh")
    if both := sorted(set(keep) & set(fresh)):
        raise ValueError(f"{both[0]} cannot be both in --keep and in --fresh")
    return {
        **{side: "fresh" if side in fresh else "keep" for side in SIDES},
        "keep": [path for path in keep if path not in SIDES],
        "fresh": [path for path in fresh if path not in SIDES],
    }


def parse_length(
    text: str,
    *,
    default: bool = False,
    bare_unit_s: float = 60.0,
    zero: bool = False,
    longest_s: float = MAX_DURATION_S,
) -> float | None:
    """Return a length of time in seconds; with `default`, None for the word `default`.

    A bare number is minutes, as in Slurm, unless `bare_unit_s` is another unit's length. The result is more than zero,
    or with `zero` at least zero, and at most `longest_s`.
    """
    from broker.format import format_duration
    from profiles.recipe.duration import parse_duration

    if default and text == DEFAULT:
        return None
    try:
        seconds = parse_duration(text, bare_unit_s=bare_unit_s)
    except ValueError as error:
        raise ValueError(f"{error}{f', or {DEFAULT}' if default else ''}") from None
    if seconds > longest_s:
        raise ValueError(f"{text!r} is longer than {format_duration(longest_s)}")
    if not seconds and not zero:
        raise ValueError(f"{text!r} is not longer than 0")
    return seconds


def parse_point(text: str) -> float | None:
    """Return a future time in seconds since the epoch.

    The text is `18:00`, `2026-12-24T18:00`, or `4h` for 4 hours from now. None for `never`.
    """
    from datetime import datetime, timedelta

    if text == NEVER:
        return None
    now = datetime.now().astimezone()
    if re.search(r"[smhdn]$", text):
        return now.timestamp() + (parse_length(text) or 0.0)
    try:
        if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}", text):
            hour, _, minute = text.partition(":")
            at = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
            return (at if at > now else at + timedelta(days=1)).timestamp()
        at = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is not a time such as 18:00, 2026-12-24T18:00, 4h, 1h30m or never") from None
    if at <= now:
        raise ValueError(f"{text!r} is in the past")
    return at.timestamp()


def parse_past(text: str) -> float:
    """Return a past time in seconds since the epoch: `2026-12-24T18:00`, or `4h` for 4 hours ago."""
    from datetime import datetime

    now = datetime.now().astimezone()
    if re.search(r"[smhdn]$", text):
        return max(now.timestamp() - (parse_length(text) or 0.0), 0.0)
    try:
        at = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is not a time such as 2026-12-24T18:00, or 4h for 4 hours ago") from None
    if at > now:
        raise ValueError(f"{text!r} is in the future")
    return max(at.timestamp(), 0.0)


def parse_policy(text: str, *words: str) -> str | None:
    """Return a length of time as the API's policies have it, such as `90m`; one of `words`; None for `default`."""
    from profiles.recipe.duration import policy_time

    if text == DEFAULT:
        return None
    if text in words:
        return text
    try:
        return policy_time(text)
    except ValueError as error:
        raise ValueError(f"{error}, or {', '.join([*words, DEFAULT])}") from None


def parse_session_options(words: Sequence[str]) -> list[str]:
    """Return sbatch's options as canonical `--name=value` words, with times and sizes in Slurm's forms."""
    from profiles.recipe.resources import to_slurm_value
    from slurm import sbatch

    options = []
    for word in sbatch.parse_options(words):
        name, equals, value = word.removeprefix("--").partition("=")
        try:
            options.append(f"--{name}={to_slurm_value(name, value)}" if equals else word)
        except ValueError as error:
            raise ValueError(f"--{name}: {error}") from None
    return options


def default_options(variables: Mapping[str, str]) -> list[str]:
    """Return the options of a new session in SBATCH_ variables; none is read if there is no such variable."""
    if not any(name.startswith("SBATCH_") for name in variables):
        return []
    from slurm.sources import options_from_environment

    return options_from_environment(variables).options


def _suggestion(value: str) -> str:
    """Suggest a valid name similar to `value`, such as for `dev.berth`, `Dev` and `my_dev`."""
    near = re.sub(r"[^a-z0-9-]+", "-", value.lower().removesuffix(".berth")).strip("-")
    return f"; try {near!r}" if re.fullmatch(NAME_PATTERN, near) else ""
