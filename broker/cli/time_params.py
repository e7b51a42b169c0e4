"""Types of command parameters for times: lengths of time, points in time, and times of policies."""

from __future__ import annotations

from functools import partial

import click

from broker.user_input import MAX_DURATION_S, parse_length, parse_past, parse_point, parse_policy


class Duration(click.ParamType["float | None"]):
    """A length of time in seconds; with `default`, None for the word `default`.

    A bare number is minutes, as in Slurm, unless `bare_unit_s` is another unit's length. The result is more than zero,
    or with `zero` at least zero, and at most `longest_s`.
    """

    name = "time"

    def __init__(
        self, *, default: bool = False, bare_unit_s: float = 60.0, zero: bool = False, longest_s: float = MAX_DURATION_S
    ) -> None:
        self._parse = partial(parse_length, default=default, bare_unit_s=bare_unit_s, zero=zero, longest_s=longest_s)

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if not isinstance(value, str):
            return None if value is None else float(str(value))
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PointInTime(click.ParamType["float | None"]):
    """A future time, in seconds since the epoch: `18:00`, `2026-12-24T18:00`, `4h` from now; None for `never`."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if not isinstance(value, str):
            return None
        try:
            return parse_point(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PastTime(click.ParamType["float | None"]):
    """A past time, in seconds since the epoch: `2026-12-24T18:00`, or `4h` ago."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if not isinstance(value, str):
            return None
        try:
            return parse_past(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PolicyTime(click.ParamType["str | None"]):
    """A length of time as the API's policies have it, such as `90m`; one of `words`; or None for `default`."""

    name = "policy"

    def __init__(self, *words: str) -> None:
        self._words = words

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str | None:
        if not isinstance(value, str):
            return None
        try:
            return parse_policy(value, *self._words)
        except ValueError as error:
            self.fail(str(error), param, ctx)
