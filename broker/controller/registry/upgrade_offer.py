"""Newer versions of a session's image: the one that is offered, and those that were held back."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from broker.schema.base import Version
from broker.schema.sessions import OfferView, VersionReason

MAX_HELD_VERSIONS = 20
"""Versions that are held back for one session, the latest."""


class HeldVersion(BaseModel):
    """A version that the session does not take any more, unless its owner asks for it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Version
    digest: str = Field(max_length=200)
    reason: VersionReason
    at: float = Field(ge=0, lt=2**40, allow_inf_nan=False)
    failed: bool = False
    """Whether the session did not become ready with it; else its owner went back."""


class UpgradeOffer(BaseModel):
    """The version that the session gets at its next natural restart, unless there is an obstacle."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    to: dict[str, Any]
    """The image, as manifest.ImageTarget."""
    obstacle: str = ""
    """The reason why the session does not take it by itself; empty if it does."""
    packages: list[str] = []
    """The packages that the session has installed, if they are the obstacle."""
    files: list[str] = []
    """Files outside the home that belong to no package, if they are the obstacle."""

    @property
    def version(self) -> str:
        return str(self.to["version"])

    @property
    def digest(self) -> str:
        return str(self.to["digest"])

    @property
    def is_taken(self) -> bool:
        """Whether the next natural restart takes it."""
        return not self.obstacle

    def record(self) -> dict[str, Any]:
        """Return the JSON object that the row stores."""
        return self.model_dump(mode="json")

    def view(self) -> OfferView:
        """Return the offer as the API shows it."""
        return OfferView(version=self.version, **self.model_dump(exclude={"to"}))


def with_held_version(held: list[dict[str, Any]], added: HeldVersion) -> list[dict[str, Any]]:
    """Return the stored versions with this one, which replaces an earlier entry for the same digest."""
    others = [each for each in held if each["digest"] != added.digest]
    return [*others, added.model_dump(mode="json")][-MAX_HELD_VERSIONS:]
