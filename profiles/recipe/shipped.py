"""The profiles that come with Berth, as package data."""

from __future__ import annotations

from pathlib import Path

LIBRARY = Path(__file__).parents[1] / "library"


def shipped_profiles() -> dict[str, Path]:
    """Map the names of the shipped profiles to their files, for `load` and `build`."""
    return {file.parent.name: file for file in sorted(LIBRARY.glob("*/profile.yaml"))}
