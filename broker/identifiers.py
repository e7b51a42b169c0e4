"""Identifiers of sessions, layers and operations: one form, sortable by age, safe as a path component."""

from __future__ import annotations

import os
import re
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

IDENTIFIER = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")


def new_id(now: float | None = None) -> str:
    """A ULID in lower case: 48 bits of milliseconds and 80 random ones, so that ids sort by age and never repeat."""
    milliseconds = int((time.time() if now is None else now) * 1000) & (2**48 - 1)
    number = milliseconds << 80 | int.from_bytes(os.urandom(10))
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
