"""Format times, durations, sizes and counts for people, and escape untrusted text."""

from __future__ import annotations

import time

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def format_time(at: float, now: float | None = None) -> str:
    """Format a point in time in the local time zone: `12:03` if it is today, else `2026-11-22 12:03`."""
    then, today = time.localtime(at), time.localtime(now)
    return time.strftime("%H:%M", then) if then[:3] == today[:3] else format_date(at)


def format_date(at: float) -> str:
    """Format a point in time in the local time zone with its date, also today: `2026-11-22 12:03`."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def format_duration(seconds: float) -> str:
    """Format a length of time in its two largest units: `40 s`, `5 min`, `2 h 5 min`, `3 d 4 h`."""
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < _DAY:
        return _two(whole // _HOUR, "h", whole % _HOUR // _MINUTE, "min")
    return _two(whole // _DAY, "d", whole % _DAY // _HOUR, "h")


def format_size(count: int) -> str:
    """Format a number of bytes: `512 B`, `1.4 GiB`."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def pluralize(count: int, what: str) -> str:
    """Return `1 layer` or `2 layers`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def escape_controls(text: str, *, keep: str = "") -> str:
    """Escape control, format and bidirectional characters except those in `keep`.

    Untrusted names, reasons and logs then cannot move the cursor or imitate other text (docs/security.md, T18).
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode("ascii") for char in text
    )


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large} {large_unit} {small} {small_unit}" if small else f"{large} {large_unit}"
