"""The settings of one registry: its authority, limits of time, and the files with logins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from profiles.oci.reference import ImageReference


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """The settings of one registry."""

    ca: Path | None = None
    """A PEM file with the authorities for this registry, instead of those of the system."""
    timeout_s: float = 30.0
    """Seconds without a byte after which a connection counts as broken."""
    slow_s: float = 60.0
    """Seconds in which a download must bring 64 KiB, so that no registry holds a command for ever."""
    login_files: tuple[Path, ...] | None = None
    """Files with logins, the first one that has the registry decides; None: those of the user."""


@dataclass(frozen=True, slots=True)
class SiteRegistries:
    """The registries that have settings, by their names with the port. All others are reached as `RegistryAccess()`."""

    settings: Mapping[str, RegistryAccess] = field(default_factory=dict)

    def __call__(self, reference: ImageReference) -> RegistryAccess:
        """Return the settings of an image's registry."""
        return self.settings.get(reference.registry, RegistryAccess())


AccessTo = Callable[["ImageReference"], RegistryAccess]
"""Says how the registry of an image is reached."""


def plain_access(_: ImageReference) -> RegistryAccess:
    """Reach every registry with the system's certificates and the user's logins."""
    return RegistryAccess()


def authorities_of(access: AccessTo) -> dict[str, Path]:
    """Return the files of authorities that are known by the names of their registries."""
    settings = access.settings if isinstance(access, SiteRegistries) else {}
    return {name: each.ca for name, each in settings.items() if each.ca is not None}
