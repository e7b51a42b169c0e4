"""Sizes as users write them, in commands and profiles: Slurm's forms, and units such as `16GB` and `1.5GiB`."""

from __future__ import annotations

import re

FORMS = "4096 (MiB), 512M, 16G, 1.5G, 16GB or 16GiB; units are powers of 1024"
"""Examples of all forms, for messages and help."""

_MIB = 1024**2
_UNITS = {"": _MIB, "k": 1024, "m": _MIB, "g": 1024**3, "t": 1024**4, "p": 1024**5}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*(?:([kmgtp])(?:i?b)?)?")
_SLURM = re.compile(r"[0-9]{1,15}[kmgt]?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes of a size. ValueError, with the accepted forms, for other text.

    As in Slurm, a bare number is MiB, and all units are powers of 1024.
    """
    found = _SIZE.fullmatch(text.lower().strip())
    if found is None:
        raise ValueError(f"{text[:60]!r} is not a size; use {FORMS}")
    return round(float(found[1]) * _UNITS[found[2] or ""])


def is_slurm_size(text: str) -> bool:
    """Whether Slurm itself reads this size."""
    return _SLURM.fullmatch(text) is not None


def slurm_size(size: int) -> str:
    """Return a size for Slurm: in MiB, rounded up."""
    return f"{-(-size // _MIB)}M"
