"""The log of the jobs of a session: its messages that mean something, and how to follow it."""

from __future__ import annotations

import re

_NOISE = re.compile(r"^[^\n]*Attempt to write login records by non-root user \(aborting\)\r?(\n|\Z)", re.MULTILINE)
"""A line that sshd writes at each login with a terminal, since it runs as the user: no fault."""

_OVERLAP_CHARS = 1024
"""Characters that must match to find the end of the last read."""


def added_text(seen: str, text: str) -> str:
    """Return the text that a later tail `text` of a log has after `seen`; all of it if the log was replaced."""
    if text.startswith(seen):
        return text[len(seen) :]
    last = seen[-_OVERLAP_CHARS:]
    position = text.rfind(last)
    return text if position < 0 else text[position + len(last) :]


def without_noise(text: str) -> str:
    """Return the log without the lines that look like faults and are none."""
    return _NOISE.sub("", text)
