"""Patterns of valid names and limits of values.

This module imports little, for the command line and the launcher.
"""

from __future__ import annotations

import os
import re
import time

NAME_PATTERN = r"^[a-z][a-z0-9-]{0,38}$"
"""A session's or profile's name: safe as host name label (RFC 1123), path component and Slurm job name."""

PROFILE_PATTERN = r"^((own|site)/)?[a-z][a-z0-9-]{0,38}$"
"""A profile's name in a request. It may say whose profile: the user's own, or the site's (profiles.image.catalog)."""

SERVICE_PATTERN = r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$"
"""A service's name, of at most MAX_SERVICE_CHARS characters: a part of a host name whose parts `--` separates."""
MAX_SERVICE_CHARS = 39

USER_PATTERN = r"^[a-z_][a-z0-9_.-]{0,31}$"
"""A login name that useradd(8) accepts by default; dots are allowed for directory services."""

REFERENCE_PATTERN = rf"^({USER_PATTERN[1:-1]}\.)?{NAME_PATTERN[1:]}"
"""A session in a request: `NAME` of the caller's own, or `OWNER.NAME`, as in its host name for ssh."""

GRANTEE_PATTERN = rf"^({USER_PATTERN[1:-1]}|@[A-Za-z0-9_][A-Za-z0-9_.-]{{0,63}})$"
"""The grantee of a grant: a user, or `@` and a Unix group, whose names directory services form more freely."""

GROUP_PATTERN = r"^@[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"
"""A Unix group in a setting, as in a grant."""

FULL_NAME_PATTERN = rf"^{USER_PATTERN[1:-1]}\.{NAME_PATTERN[1:]}"
"""A session in a request of an operator: `OWNER.NAME`, also for an own one."""

NODE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""A node, by the name that Slurm has for it."""

VERSION_PATTERN = r"^[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}$"
"""A profile's version: a version in dpkg's syntax, without an epoch."""

LABEL_PATTERN = r"^[A-Za-z][A-Za-z0-9._-]{0,63}$"
"""A snapshot's label; it begins with a letter, so it cannot be a number."""

PERSISTENT_PATH_PATTERN = r"^~?/[^,:\\\x00-\x1f\x7f]+$"
"""A path whose persistence a profile or session decides: absolute, or below the home as `~/…`."""

CONTINUATION_PATTERN = r"^(always|never|[1-9][0-9]{0,3}[mhd])$"
"""Values of schema.Continuation."""

IDLE_PATTERN = r"^(never|[1-9][0-9]{0,3}[mhd])$"
"""Values of schema.IdleTime."""

MAX_CONNECT_WAIT_S = 86400.0
"""Longest time for which a connection waits for its session."""

MAX_GRANTS = 1000
"""Most grants of a session that a site can allow."""

MAX_ITEMS = 500
"""Most elements of a list in a request; sbatch has some 130 options."""

MAX_AUDIT_EVENTS = 10_000
"""Most events in one answer to an operator."""

MAX_OPERATOR_SESSIONS = 1000
"""Most sessions in one answer to an operator."""

MAX_MESSAGE_CHARS = 200
"""Characters of an operator's message. With it and a session's name, run/ending has less than ENDING_BYTES of
broker/job/node/messages.sh.
"""

MAX_PATH_CHARS = 1024
MAX_HOST_CHARS = 255
MAX_FINGERPRINT_CHARS = 64

MAX_CERTIFICATE_HOURS = 24.0 * 31
"""Longest validity of a user's certificate that a site can allow."""

MAX_EXTENSION_S = 366 * 86400.0
"""Longest extension of a job's time limit in one request."""


def split_reference(reference: str, caller: str) -> tuple[str, str]:
    """Return the owner and the name of `NAME` or `OWNER.NAME`. An owner may contain dots, a name may not."""
    owner, _, name = reference.rpartition(".")
    return owner or caller, name


def check_message(text: str) -> str:
    """Return an operator's message; ValueError unless it is one line of at most MAX_MESSAGE_CHARS printable characters.

    Terminals show it: control characters, and characters that turn the direction of writing, are none of these.
    """
    if not (text.isprintable() and text.strip() and len(text) <= MAX_MESSAGE_CHARS):
        raise ValueError(f"a message is one line of 1 to {MAX_MESSAGE_CHARS} printable characters")
    return text.strip()


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

IDENTIFIER = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")


def new_id(now: float | None = None) -> str:
    """Return a ULID in lower case: 48 bits of milliseconds and 80 random bits. Ids sort by age and never repeat."""
    milliseconds = int((time.time() if now is None else now) * 1000) & (2**48 - 1)
    number = milliseconds << 80 | int.from_bytes(os.urandom(10))
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
