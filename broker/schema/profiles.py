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
    """Whether the name alone means it: the stable version of its owner, or else the newest."""
    channels: list[str] = []
    """The channels that name it: `stable`, `candidate`, `previous`."""
    note: str = ""
    """A sentence if it is deprecated."""


class ProfileList(Strict):
    profiles: list[ProfileView]
