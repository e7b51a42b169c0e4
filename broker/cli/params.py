"""Types of command parameters: they check values before any request, and complete them in the shell."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar

import click
from click.shell_completion import CompletionItem

from broker.cli.context import Invocation
from broker.errors import BerthError, InvalidInputError
from broker.names import MAX_CERTIFICATE_HOURS, MAX_FINGERPRINT_CHARS, MAX_HOST_CHARS, VERSION_PATTERN
from broker.text.upgrade import CHANNEL_NAMES
from broker.user_input import (
    ProfileReference,
    parse_grantee,
    parse_kept,
    parse_label,
    parse_name,
    parse_persistence,
    parse_profile_reference,
    parse_reference,
    parse_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.client.client import Client

_Known = TypeVar("_Known")
NO_VERSION = "none"
"""The word for a session that follows no channel."""
_SHOWN_CHARS = 60
"""Characters of a wrong value in a message."""


class SessionName(click.ParamType[str]):
    """A session's name; completed with the existing sessions."""

    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parse_name(value)
        except ValueError as error:
            if "." in value and _is_reference(value):
                self.fail(f"{value!r} is another user's session; this command is for your own sessions", param, ctx)
            self.fail(str(error), param, ctx)
        if ctx is not None and (invocation := ctx.find_object(Invocation)) is not None:
            invocation.names.append(value)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [
            CompletionItem(view.name, help=f"{view.state}, {view.profile}@{view.version}")
            for view in query_for_completion(lambda client: client.sessions())
            if view.name.startswith(incomplete)
        ]


class SessionReference(SessionName):
    """A session that a guest may operate: `NAME`, or `OWNER.NAME` for one of another user."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            name = parse_reference(value)
        except ValueError:
            return super().convert(value, param, ctx)
        return name if "." in name else super().convert(name, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if "." not in incomplete:
            return super().shell_complete(ctx, param, incomplete)
        return [
            CompletionItem(shared.session.name, help=f"{shared.session.state}, {shared.role}")
            for shared in query_for_completion(lambda client: client.shared_list().sessions)
            if shared.session.name.startswith(incomplete)
        ]


class SharedName(SessionReference):
    """A session of another user, of which anything is shared: `OWNER.NAME`."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if "." not in incomplete:
            return super().shell_complete(ctx, param, incomplete)
        return [CompletionItem(name) for name in query_for_completion(_shared_names) if name.startswith(incomplete)]


def _shared_names(client: Client) -> list[str]:
    shared = client.shared_list()
    sessions = {each.session.name for each in shared.sessions}
    return sorted(sessions | {each.session for each in shared.snapshots} | {each.session for each in shared.services})


class CloneSource(SessionReference):
    """A session to clone: `NAME`, or `OWNER.NAME` for one of another user who shares a snapshot of it."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if "." not in incomplete:
            return super().shell_complete(ctx, param, incomplete)
        return [
            CompletionItem(name)
            for name in sorted(
                {shared.session for shared in query_for_completion(lambda client: client.shared_list().snapshots)}
            )
            if name.startswith(incomplete)
        ]


class GranteeName(click.ParamType[str]):
    """A user, or `@` and a Unix group."""

    name = "grantee"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_grantee(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SharedServiceName(click.ParamType[str]):
    """The name of a session's service."""

    name = "service"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from profiles.recipe.service import parse_service_name

        try:
            return parse_service_name(value)
        except ValueError as error:
            self.fail(f"{value[:_SHOWN_CHARS]!a} is not the name of a service: it {error}", param, ctx)


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
    """A profile, with or without an owner and a version; completed with the published images."""

    name = "profile"

    def convert(
        self, value: str | ProfileReference, param: click.Parameter | None, ctx: click.Context | None
    ) -> ProfileReference:
        if isinstance(value, ProfileReference):
            return value
        try:
            return parse_profile_reference(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

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
            for view in query_for_completion(lambda client: client.deleted_sessions())
            if view.name.startswith(incomplete)
        ]


class SnapshotLabel(click.ParamType[str]):
    """A snapshot's label, which cannot be a number."""

    name = "label"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_label(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SnapshotReference(click.ParamType[str]):
    """A snapshot's number or label; completed with the snapshots of the session before it."""

    name = "snapshot"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_snapshot(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del param
        session = ctx.params.get("name") or next(iter(ctx.args), None)  # click leaves it there before an option's value
        return [
            CompletionItem(word, help=each.reason or each.label)
            for each in (query_for_completion(lambda client: client.snapshots(session)) if session else [])
            for word in (str(each.number), each.label)
            if word and word.startswith(incomplete)
        ]


class Followed(click.ParamType[str]):
    """A channel that a session can follow, a version, or NO_VERSION."""

    name = "version"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if re.fullmatch(VERSION_PATTERN, value) is None:
            self.fail(f"{value[:_SHOWN_CHARS]!r} is neither stable, candidate, a version, nor {NO_VERSION}", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        del ctx, param
        return [CompletionItem(word) for word in (*CHANNEL_NAMES, NO_VERSION) if word.startswith(incomplete)]


class Kept(click.ParamType[str]):
    """`home`, `system` (everything outside the home), or a path of either.

    A path below the user's home on this machine, to which the shell expands `~/…`, means the session's home.
    """

    name = "kept"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_kept(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def persistence_of(keep: tuple[str, ...], fresh: tuple[str, ...]) -> dict[str, object] | None:
    """Return the persistence of `--keep` and `--fresh` for the API; None without both options.

    InvalidInputError if a path is in both.
    """
    try:
        return parse_persistence(keep, fresh)
    except ValueError as error:
        raise InvalidInputError(str(error)) from None


def query_for_completion(look: Callable[[Client], list[_Known]]) -> list[_Known]:
    """Return values for completion. It never starts a controller."""
    from broker.client.autostart import passive_client
    from broker.config.settings import load_config

    try:
        return look(passive_client(load_config()))
    except BerthError:
        return []


def _profiles() -> list[str]:
    """Return the profiles for completion; with their owner where the site and the user have the same name."""
    from broker.cli.stores import config_catalog
    from broker.config.settings import load_config
    from profiles.errors import ProfilesError

    try:
        contents = config_catalog(load_config()).contents()
    except (BerthError, ProfilesError):
        return []
    names = {owner: {image.name for image in each.images} for owner, each in contents.items()}
    shared = set.intersection(*names.values()) if len(names) > 1 else set()
    found: set[str] = set()
    for owner, each in contents.items():
        for image in each.images:
            name = f"{owner}/{image.name}" if image.name in shared else image.name
            found |= {name, f"{name}@{image.version}"}
    return sorted(found)


def _is_reference(text: str) -> bool:
    """Whether it is `OWNER.NAME`."""
    try:
        return parse_reference(text) == text
    except ValueError:
        return False


watch_option = click.option("-w", "--watch", is_flag=True, help="Follow changes until Ctrl-C.")
