"""Types of profiles, as the API lists them."""

from __future__ import annotations

from broker.schema.base import Name, Strict, Version


class ProfileView(Strict):
    """A version of a profile that the caller can start."""

    name: Name
    version: Version
    owner: str
    """`site`, or `own` for the caller's own."""
    description: str = ""
    newest: bool
    """Whether it is the newest version of its owner."""


class ProfileList(Strict):
    profiles: list[ProfileView]
