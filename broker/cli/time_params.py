"""Types of command parameters for times: lengths of time, points in time, and times of policies."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import re

import click

from broker.format import format_duration
from profiles.recipe.duration import parse_duration, policy_time

DEFAULT = "default"
"""The word that selects the value of the profile or the site."""


class Duration(click.ParamType["float | None"]):
    """A length of time in seconds; with `default`, None for the word `default`.

    A bare number is minutes, as in Slurm, unless `bare_unit_s` is another unit's length. The result is more than zero,
    or with `zero` at least zero, and at most `longest_s`.
    """

    name = "time"

    def __init__(
        self, *, default: bool = False, bare_unit_s: float = 60.0, zero: bool = False, longest_s: float = 3650 * 86400.0
    ) -> None:
        self._default = default
        self._bare_unit_s = bare_unit_s
        self._zero = zero
        self._longest_s = longest_s

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if not isinstance(value, str):
            return None if value is None else float(str(value))
        if self._default and value == DEFAULT:
            return None
        try:
            seconds = parse_duration(value, bare_unit_s=self._bare_unit_s)
        except ValueError as error:
            self.fail(f"{error}{f', or {DEFAULT}' if self._default else ''}", param, ctx)
        if seconds > self._longest_s:
            self.fail(f"{value!r} is longer than {format_duration(self._longest_s)}", param, ctx)
        if not seconds and not self._zero:
            self.fail(f"{value!r} is not longer than 0", param, ctx)
        return seconds


class PointInTime(click.ParamType["float | None"]):
    """A future time, in seconds since the epoch: `18:00`, `2026-12-24T18:00`, `4h` from now; None for `never`."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        from datetime import datetime, timedelta

        if not isinstance(value, str) or value == "never":
            return None
        now = datetime.now().astimezone()
        if re.search(r"[smhdn]$", value):
            return now.timestamp() + (Duration().convert(value, param, ctx) or 0.0)
        try:
            if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}", value):
                hour, _, minute = value.partition(":")
                at = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
                return (at if at > now else at + timedelta(days=1)).timestamp()
            at = datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is not a time such as 18:00, 2026-12-24T18:00, 4h, 1h30m or never", param, ctx)
        if at <= now:
            self.fail(f"{value!r} is in the past", param, ctx)
        return at.timestamp()


class PolicyTime(click.ParamType["str | None"]):
    """A length of time as the API's policies have it, such as `90m`; one of `words`; or None for `default`."""

    name = "policy"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str | None:
        if not isinstance(value, str) or value == DEFAULT:
            return None
        if value in self._words:
            return value
        try:
            return policy_time(value)
        except ValueError as error:
            self.fail(f"{error}, or {', '.join([*self._words, DEFAULT])}", param, ctx)
