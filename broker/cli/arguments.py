"""The kinds of words that commands take: checked before anything is asked of anyone, and completed by the shell."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from broker.names import NAME_PATTERN, VERSION_PATTERN

if TYPE_CHECKING:
    from broker.schema import SessionView


class SessionName(click.ParamType[str]):
    """A session's name; completed with those that exist."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value.startswith("-"):
            self.fail(f"{value!r} is an option; the session's name comes before those that are not ours", param, ctx)
        if not re.fullmatch(NAME_PATTERN, value):
            self.fail(f"{value!r} {_WRONG_NAME}{_suggestion(value, NAME_PATTERN)}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [
            CompletionItem(view.name, help=f"{view.state}, {view.profile}@{view.version}")
            for view in _sessions()
            if view.name.startswith(incomplete)
        ]


@dataclass(frozen=True, slots=True)
class ProfileReference:
    """`NAME` for the newest version, or `NAME@VERSION`."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


class ProfileName(click.ParamType[ProfileReference]):
    """A profile, with or without its version; completed with those that were built."""

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
            self.fail(f"{version!r} cannot be a version: give NAME or NAME@VERSION", param, ctx)
        return ProfileReference(name, version or None)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(name) for name in _profiles() if name.startswith(incomplete)]


_WRONG_NAME = "cannot be a name: names have 1 to 39 small letters, digits and hyphens and start with a letter"


def _suggestion(value: str, pattern: str) -> str:
    """A name near to what was typed, for `dev.berth`, `Dev` and `my_dev`."""
    near = re.sub(r"[^a-z0-9-]+", "-", value.lower().removesuffix(".berth")).strip("-")
    return f"; {near!r} would do" if re.fullmatch(pattern, near) else ""


def _sessions() -> list[SessionView]:
    """What to complete with; a controller that is not there is not started by pressing Tab."""
    from broker.config import load
    from broker.errors import BerthError
    from broker.personal import passive_client

    try:
        return passive_client(load()).sessions()
    except BerthError:
        return []


def _profiles() -> list[str]:
    from broker.config import load
    from broker.errors import BerthError
    from profiles.errors import ProfilesError
    from profiles.store import Stores

    try:
        images = Stores(load().profiles.stores).images()
    except (BerthError, ProfilesError):
        return []
    return sorted({image.name for image in images} | {f"{image.name}@{image.version}" for image in images})
