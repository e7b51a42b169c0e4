"""Types of command parameters: they check values before any request, and complete them in the shell."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click
from click.shell_completion import CompletionItem

from broker.cli.context import Invocation
from broker.errors import BerthError, InvalidInputError
from broker.names import (
    LABEL_PATTERN,
    MAX_CERTIFICATE_HOURS,
    MAX_FINGERPRINT_CHARS,
    MAX_HOST_CHARS,
    MAX_ITEMS,
    MAX_PATH_CHARS,
    NAME_PATTERN,
    PERSISTENT_PATH_PATTERN,
    VERSION_PATTERN,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.client import Client

_Known = TypeVar("_Known")
_SHOWN_CHARS = 60
"""Characters of a wrong value in a message."""


class SessionName(click.ParamType[str]):
    """A session's name; completed with the existing sessions."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.startswith("-"):
            self.fail(f"{value!r} is an option; put the session's name before sbatch's or ssh's options", param, ctx)
        if not re.fullmatch(NAME_PATTERN, value):
            self.fail(f"{value!r} {_WRONG_NAME}{_suggestion(value, NAME_PATTERN)}", param, ctx)
        if ctx is not None and (invocation := ctx.find_object(Invocation)) is not None:
            invocation.names.append(value)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [
            CompletionItem(view.name, help=f"{view.state}, {view.profile}@{view.version}")
            for view in known(lambda client: client.sessions())
            if view.name.startswith(incomplete)
        ]


@dataclass(frozen=True, slots=True)
class ProfileReference:
    """`NAME` for the newest version, or `NAME@VERSION`."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


class PlainText(click.ParamType[str]):
    """A word of printable ASCII, of limited length; what it names, and an example, are for the message."""

    name = "text"

    def __init__(self, what: str, longest: int) -> None:
        self._what = what
        self._longest = longest

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not (value.isascii() and value.isprintable() and 0 < len(value) <= self._longest):
            shown = ascii(value[:_SHOWN_CHARS])
            self.fail(f"{shown} is not {self._what}: up to {self._longest} printable characters", param, ctx)
        return value


FINGERPRINT = PlainText("a key's fingerprint such as SHA256:…", MAX_FINGERPRINT_CHARS)
HOST = PlainText("the host name of a session", MAX_HOST_CHARS)


class Hours(click.FloatRange):
    """A number of hours, up to the longest validity of a certificate that any site allows."""

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True, max=MAX_CERTIFICATE_HOURS)

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        hours: float = super().convert(value, param, ctx)
        if math.isnan(hours):
            self.fail(f"{value!r} is not a number of hours", param, ctx)
        return hours


class ProfileName(click.ParamType[ProfileReference]):
    """A profile, with or without a version; completed with the published images."""

    name = "profile"

    def convert(
        self, value: str | ProfileReference, param: click.Parameter | None, ctx: click.Context | None
    ) -> ProfileReference:
        if isinstance(value, ProfileReference):
            return value
        name, at, version = value.partition("@")
        if not re.fullmatch(NAME_PATTERN, name):
            self.fail(f"{name!r} {_WRONG_NAME}{_suggestion(name, NAME_PATTERN)}", param, ctx)
        if at and not re.fullmatch(VERSION_PATTERN, version):
            self.fail(f"{version!r} is not a version: use NAME or NAME@VERSION", param, ctx)
        return ProfileReference(name, version or None)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(name) for name in _profiles() if name.startswith(incomplete)]


class EnvironmentName(click.ParamType[str]):
    """A session or profile for a batch job's environment; completed with both."""

    name = "environment"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return SessionName().shell_complete(ctx, param, incomplete) + ProfileName().shell_complete(
            ctx, param, incomplete
        )


class DeletedName(SessionName):
    """The name of a deleted session; completed with sessions that can be restored."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [
            CompletionItem(view.name, help=f"{view.profile}@{view.version}")
            for view in known(lambda client: client.deleted())
            if view.name.startswith(incomplete)
        ]


class SnapshotLabel(click.ParamType[str]):
    """A snapshot's label, which cannot be a number."""

    name = "label"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(LABEL_PATTERN, value):
            self.fail(f"{value!r} {_WRONG_LABEL}", param, ctx)
        return value


class SnapshotReference(click.ParamType[str]):
    """A snapshot's number or label; completed with the snapshots of the session before it."""

    name = "snapshot"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(rf"[1-9][0-9]{{0,8}}|{LABEL_PATTERN[1:-1]}", value):
            self.fail(f"{value!r} is neither a snapshot's number nor a label; `berth snapshots` lists them", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        session = ctx.params.get("name") or next(iter(ctx.args), None)  # click leaves it there before an option's value
        return [
            CompletionItem(word, help=each.reason or each.label)
            for each in (known(lambda client: client.snapshots(session)) if session else [])
            for word in (str(each.number), each.label)
            if word and word.startswith(incomplete)
        ]


class Kept(click.ParamType[str]):
    """`home`, `system` (everything outside the home), or a path of either.

    A path below the user's home on this machine, to which the shell expands `~/…`, means the session's home.
    """

    name = "kept"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in SIDES:
            return value
        here = os.path.expanduser("~").rstrip("/")  # noqa: PTH111 - a prefix of text, not a file
        path = f"~{value.removeprefix(here)}" if here and value.startswith(f"{here}/") else value
        path = path.rstrip("/")
        steps = path.split("/")[1:]
        wrong = not re.fullmatch(PERSISTENT_PATH_PATTERN, path) or set(steps) & {"", ".", ".."}
        if wrong or not is_utf8(path) or len(path) > MAX_PATH_CHARS:
            self.fail(f"{value!r} {_WRONG_PATH}", param, ctx)
        return path


def is_utf8(text: str) -> bool:
    """Whether the text can be sent to the controller: an argument of other bytes cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


SIDES = ("home", "system")


def persistence_of(keep: tuple[str, ...], fresh: tuple[str, ...]) -> dict[str, object] | None:
    """Return the persistence of `--keep` and `--fresh` for the API; None without both options.

    InvalidInputError if a path is in both.
    """
    if not keep and not fresh:
        return None
    if max(len(keep), len(fresh)) > MAX_ITEMS:
        raise InvalidInputError(f"more than {MAX_ITEMS} paths in --keep or in --fresh")
    if both := sorted(set(keep) & set(fresh)):
        raise InvalidInputError(f"{both[0]} cannot be both in --keep and in --fresh")
    return {
        **{side: "fresh" if side in fresh else "keep" for side in SIDES},
        "keep": [path for path in keep if path not in SIDES],
        "fresh": [path for path in fresh if path not in SIDES],
    }


_WRONG_PATH = (
    "is neither `home`, `system`, nor a path that begins with / or ~/ and has no comma, colon or backslash in it, and "
    f"at most {MAX_PATH_CHARS} characters"
)

_WRONG_LABEL = (
    "cannot be a label: labels begin with a letter and have up to 64 letters, digits, dots, hyphens and underscores"
)

_WRONG_NAME = "cannot be a name: names have 1 to 39 small letters, digits and hyphens and start with a letter"


def _suggestion(value: str, pattern: str) -> str:
    """Suggest a valid name similar to `value`, such as for `dev.berth`, `Dev` and `my_dev`."""
    near = re.sub(r"[^a-z0-9-]+", "-", value.lower().removesuffix(".berth")).strip("-")
    return f"; try {near!r}" if re.fullmatch(pattern, near) else ""


def known(look: Callable[[Client], list[_Known]]) -> list[_Known]:
    """Return values for completion. It never starts a controller."""
    from broker.client.autostart import passive_client
    from broker.config.settings import load_config

    try:
        return look(passive_client(load_config()))
    except BerthError:
        return []


def _profiles() -> list[str]:
    from broker.config.settings import load_config
    from profiles.errors import ProfilesError
    from profiles.image.store import Stores

    try:
        images = Stores(load_config().profiles.stores).images()
    except (BerthError, ProfilesError):
        return []
    return sorted({image.name for image in images} | {f"{image.name}@{image.version}" for image in images})
