"""Compare versions as dpkg does (Debian Policy 5.6.12): 1.10 follows 1.9, and 1.0~rc1 comes before 1.0."""

from __future__ import annotations

import re

_PARTS = re.compile(r"(\D*)(\d*)")
_END = 0
_TILDE = -1


def version_sort_key(version: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Make a key that sorts versions, oldest first; two spellings of one number, 1.1 and 1.01, are equal."""
    return tuple((_rank(text), int(number or 0)) for text, number in _PARTS.findall(version))


def _rank(text: str) -> tuple[int, ...]:
    """Characters as dpkg ranks them: `~` before the end, the end before letters, letters before the rest."""
    return (
        *(_TILDE if char == "~" else ord(char) if char.isalpha() else ord(char) + 256 for char in text),
        _END,
    )


def distinct_version_key(version: str) -> tuple[tuple[tuple[tuple[int, ...], int], ...], str]:
    """As `version_sort_key`, but two spellings of one number are in the order of their characters."""
    return version_sort_key(version), version
