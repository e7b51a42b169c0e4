"""The forms of actions: what an action asks for, and the words that it adds to the equivalent command line."""

from __future__ import annotations

import shlex
from functools import partial
from typing import TYPE_CHECKING

from broker.forms.form import NO, YES, Field, Form, choice, yes_or_no
from broker.forms.start_form import profile_field, resource_fields, resource_options
from broker.names import MAX_CONNECT_WAIT_S, MAX_EXTENSION_S
from broker.user_input import (
    DEFAULT,
    NEVER,
    parse_label,
    parse_length,
    parse_name,
    parse_point,
    parse_policy,
    parse_profile_reference,
    parse_snapshot,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from broker.forms.start_form import ProfileChoice


def stop_time_form() -> Form:
    """Return the form for a stop at a time."""
    return Form(
        "Stop at",
        (
            Field(
                id="at",
                title="Time",
                parse=parse_point,
                required=True,
                example="18:00, 2026-12-24T18:00, 4h",
                help="never cancels a scheduled stop",
            ),
            yes_or_no("keep", "Keep until then", help="continue in new jobs until then, whatever the policy is"),
        ),
    )


def stop_time_words(form: Form) -> list[str]:
    """Return the words of `berth stop` for a stop time."""
    return ["--keep-until" if form.text("keep") == YES else "--at", form.text("at")]


def extend_form() -> Form:
    """Return the form for more time."""
    parse = partial(parse_length, longest_s=MAX_EXTENSION_S)
    return Form(
        "Extend", (Field(id="time", title="Add", parse=parse, required=True, example="4h, 1h30m, 90 (minutes)"),)
    )


def extend_words(form: Form) -> list[str]:
    """Return the words of `berth extend`."""
    return [form.text("time")]


def resize_form() -> Form:
    """Return the form for other resources."""
    return Form("Resize", resource_fields(), rule=_some_resource)


def _some_resource(values: Mapping[str, object]) -> dict[str, str]:
    return {} if any(values.values()) else {"gpus": "change at least one resource"}


def policies_form() -> Form:
    """Return the form for a session's policies; an empty field is not changed."""
    return Form(
        "Policies",
        (
            choice("start", "Start on connect", ("", YES, NO, DEFAULT), help="whether a connection starts the session"),
            Field(id="wait", title="Connect wait", parse=_parse_wait, example=f"30s, 10m, {DEFAULT}"),
            Field(
                id="continue",
                title="Continue",
                parse=lambda text: (parse_policy(text, "always", NEVER),),
                example=f"always, never, 12h, {DEFAULT}",
                help="in a new job when the job has to end; a time: if used within it",
            ),
            Field(
                id="idle",
                title="Idle stop",
                parse=lambda text: (parse_policy(text, NEVER),),
                example=f"8h, never, {DEFAULT}",
                help="stop the session when it is idle for this time",
            ),
        ),
        rule=_some_policy,
    )


def _parse_wait(text: str) -> tuple[float | None]:
    """Return the time in a tuple: None in it is the default, and no tuple is no change."""
    return (parse_length(text, default=True, zero=True, longest_s=MAX_CONNECT_WAIT_S),)


def _some_policy(values: Mapping[str, object]) -> dict[str, str]:
    return {} if any(value is not None for value in values.values()) else {"start": "change at least one policy"}


def policies_words(form: Form) -> list[str]:
    """Return the words of `berth set`."""
    options = {"start": "--start-on-connect", "wait": "--connect-wait", "continue": "--continue", "idle": "--idle"}
    return [
        word for field_id, option in options.items() if form.text(field_id) for word in (option, form.text(field_id))
    ]


def rename_form() -> Form:
    """Return the form for another name."""
    return Form("Rename", (Field(id="new", title="New name", parse=parse_name, required=True),))


def rename_words(form: Form) -> list[str]:
    """Return the words of `berth rename`."""
    return [form.text("new")]


def snapshot_form() -> Form:
    """Return the form for a snapshot."""
    return Form("Snapshot", (Field(id="label", title="Label", parse=parse_label, example="before-upgrade"),))


def snapshot_words(form: Form) -> list[str]:
    """Return the words of `berth snapshot`."""
    return [form.text("label")] if form.text("label") else []


def rollback_form() -> Form:
    """Return the form for a rollback."""
    return Form("Roll back", (_snapshot_field(required=True),))


def rollback_words(form: Form) -> list[str]:
    """Return the words of `berth rollback`."""
    return [form.text("snapshot")]


def clone_form(profiles: Sequence[ProfileChoice] | None = None) -> Form:
    """Return the form for a clone; `profiles` as for profile_field."""
    return Form(
        "Clone",
        (
            Field(id="new", title="New name", parse=parse_name, required=True),
            _snapshot_field(help="empty for the present state"),
            profile_field(
                profiles,
                required=False,
                help="without the changes outside the home; empty for the same profile with them",
            ),
            yes_or_no("start", "Start it"),
        ),
    )


def clone_words(form: Form) -> list[str]:
    """Return the words of `berth clone`."""
    words = [form.text("new")]
    words += ["--at", form.text("snapshot")] if form.text("snapshot") else []
    words += ["--profile", form.text("profile")] if form.text("profile") else []
    return [*words, *(["--start"] if form.text("start") == YES else [])]


def switch_form(profiles: Sequence[ProfileChoice] | None = None) -> Form:
    """Return the form for another profile or version; `profiles` as for profile_field."""
    return Form(
        "Switch profile",
        (
            profile_field(profiles, required=True, help="without a version, the newest"),
            yes_or_no("fresh", "Fresh", help="begin without the changes from an earlier use of the profile"),
        ),
    )


def switch_words(form: Form) -> list[str]:
    """Return the words of `berth switch`."""
    return [form.text("profile"), *(["--fresh"] if form.text("fresh") == YES else [])]


def commit_form() -> Form:
    """Return the form for a commit to a profile."""
    return Form(
        "Commit to a profile",
        (
            Field(
                id="profile",
                title="Profile",
                parse=_parse_new_version,
                required=True,
                example="own/tools@1",
                help="PROFILE@VERSION; the version must be new",
            ),
            _snapshot_field(help="empty for the present state"),
        ),
    )


def _parse_new_version(text: str) -> object:
    reference = parse_profile_reference(text)
    if reference.version is None:
        raise ValueError(f"the version of {text} is missing: use {text}@VERSION")
    return reference


def commit_words(form: Form) -> list[str]:
    """Return the words of `berth profile commit`."""
    return [form.text("profile"), *(["--at", form.text("snapshot")] if form.text("snapshot") else [])]


def exec_form() -> Form:
    """Return the form for a command."""
    return Form(
        "Run a command",
        (
            Field(id="command", title="Command", parse=_parse_command, required=True, example="nvidia-smi"),
            yes_or_no("root", "As root", help="to install software: the session restarts, and a snapshot is taken"),
        ),
    )


def _parse_command(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError:
        raise ValueError("a quotation mark or a backslash at the end is not completed") from None
    if not words or words[0].startswith("-"):
        raise ValueError(f"{text[:60]!r} is not a command")
    return words


def exec_words(form: Form) -> list[str]:
    """Return the words of `berth exec` after the session's name."""
    return ["--", *_parse_command(form.text("command"))]


def restore_form(deleted: Sequence[str] | None = None) -> Form:
    """Return the form for a deleted session; with the names in `deleted`, other names are refused in place."""

    def parse_deleted(text: str) -> str:
        name = parse_name(text)
        if deleted is not None and name not in deleted:
            rest = f"there are {', '.join(deleted)}" if deleted else "there is none that can be restored"
            raise ValueError(f"{name} is not a deleted session; {rest}")
        return name

    names = Field(
        id="name",
        title="Session",
        parse=parse_deleted,
        required=True,
        choices=tuple(deleted or ()),
        open=True,
        help=f"one of {', '.join(deleted)}" if deleted else "a deleted session",
    )
    return Form("Restore", (names, Field(id="as", title="New name", parse=parse_name, help="empty: its former name")))


def restore_words(form: Form) -> list[str]:
    """Return the words of `berth restore`."""
    return [form.text("name"), *(["--as", form.text("as")] if form.text("as") else [])]


def diff_form() -> Form:
    """Return the form for a comparison."""
    return Form(
        "Compare",
        (
            Field(id="from", title="From", parse=parse_snapshot, help="a snapshot; empty for the profile"),
            Field(id="to", title="To", parse=parse_snapshot, help="a snapshot; empty for the present state"),
            yes_or_no("content", "Content", help="also compare files that look the same; slower"),
        ),
    )


def diff_words(form: Form) -> list[str]:
    """Return the words of `berth diff`."""
    words = ["--from", form.text("from")] if form.text("from") else []
    words += ["--to", form.text("to")] if form.text("to") else []
    return [*words, *(["--content"] if form.text("content") == YES else [])]


def resize_words(form: Form) -> list[str]:
    """Return the words of `berth resize`."""
    return resource_options(form)


def _snapshot_field(*, required: bool = False, help: str = "") -> Field:  # noqa: A002 - the field's word
    return Field(
        id="snapshot", title="Snapshot", parse=parse_snapshot, required=required, example="3 or a label", help=help
    )
