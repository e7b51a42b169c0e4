"""Lengths of time as users write them, in commands and profiles: Slurm's forms, and units such as `1h30m`."""

from __future__ import annotations

import re

FORMS = "90 (minutes), 30s, 15m, 4h, 1h30m, 2d, 1:30:00 (hours:minutes:seconds) or 2-12 (days-hours)"
"""Examples of all forms, for messages and help."""

_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_BARE = re.compile(_NUMBER)
_WHOLE = re.compile(r"[0-9]{1,9}")
_WITH_UNITS = re.compile("".join(rf"(?:{_NUMBER}\s*{unit}\s*)?" for unit in ("d", "h", "m(?:in)?", "s")))
_CLOCK = re.compile(r"(?:([0-9]{1,9}):)?([0-9]{1,9}):([0-9]{1,9})")
_DAYS = re.compile(r"([0-9]{1,9})-([0-9]{1,9})(?::([0-9]{1,9}))?(?::([0-9]{1,9}))?")

_POLICY_TIME = re.compile(r"[1-9][0-9]{0,3}[mhd]")
_MAX_POLICY_COUNT = 9999
"""Largest number in a policy's time: the API and the job script take at most four digits."""


def parse_duration(text: str, *, bare_unit_s: float = 60.0) -> float:
    """Return the seconds of a length of time. ValueError, with the accepted forms, for other text.

    As in Slurm, a bare number is minutes, `90:30` is minutes and seconds, and `2-12` is days and hours. `bare_unit_s`
    is the length of the unit of a bare number.
    """
    word = text.lower().strip()
    if _BARE.fullmatch(word):
        return float(word) * bare_unit_s
    if found := _DAYS.fullmatch(word):
        return _sum(found.groups())
    if found := _CLOCK.fullmatch(word):
        return _sum((None, *found.groups()))
    if word and (found := _WITH_UNITS.fullmatch(word)):
        return _sum(found.groups())
    raise ValueError(f"{text[:60]!r} is not a length of time; use {FORMS}")


def is_slurm_time(text: str) -> bool:
    """Whether Slurm itself reads this length of time."""
    return any(form.fullmatch(text) for form in (_WHOLE, _CLOCK, _DAYS))


def slurm_time(seconds: float) -> str:
    """Return a length of time in Slurm's form `hours:minutes:seconds`."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def policy_time(text: str) -> str:
    """Return a length of time as policies of the API have it: `90m`, `12h` or `7d`.

    ValueError for other text, and unless it is a whole number of minutes, hours or days, from 1 to 9999 of them.
    """
    if _POLICY_TIME.fullmatch(text):
        return text
    seconds = parse_duration(text)
    for unit in "dhm":
        count, rest = divmod(seconds, _UNITS_S[unit])
        if not rest and 1 <= count <= _MAX_POLICY_COUNT:
            return f"{count:.0f}{unit}"
    raise ValueError(f"{text!r} is not a whole number of minutes, hours or days, from 1 to {_MAX_POLICY_COUNT} of them")


def _sum(counts: tuple[str | None, ...]) -> float:
    return sum(float(count or 0) * length for count, length in zip(counts, _UNITS_S.values(), strict=True))
