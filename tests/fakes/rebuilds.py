"""Builds and package sources for tests of rebuilds: images of a few bytes, published by the real builder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from profiles.build import builder, rebuild
from profiles.build.build_key import build_key
from profiles.image.store import Image, Store, file_digest
from profiles.inventory.cyclonedx import as_cyclonedx
from profiles.inventory.model import (
    CYCLONEDX_NAME,
    ImageOrigin,
    InstalledPackage,
    Inventory,
    OperatingSystem,
    PackageKind,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

RECIPE = "# of the team\nname: base\nversion: {version}\nbase: debian:sid\napt: [hello]\n"


@dataclass
class PackageSources:
    """The packages that sources have today."""

    packages: dict[str, str] = field(default_factory=lambda: {"hello": "1.0", "libc6": "2.40"})
    builds: int = 0

    def lines(self) -> list[str]:
        return sorted(f"deb {name} {version}" for name, version in self.packages.items())

    def inventory(self) -> Inventory:
        found = [
            InstalledPackage(PackageKind.DEB, name, version, "amd64", name, version)
            for name, version in sorted({**self.packages, "bash": "5.2"}.items())
        ]
        return Inventory(
            ImageOrigin("base", "1", "debian:sid", "", "2026-12-01T09:00:00Z", "berth"),
            OperatingSystem("debian", "", "sid"),
            tuple(found),
            (),
            (),
        )

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let builds and rebuilds take packages from here."""

        def make(build: Any, *_: object) -> Any:  # noqa: ANN401 - a private class
            self.builds += 1
            stage, profile = build._stage, build._profile
            sif = stage / "image.sif"
            sif.write_text(f"{profile.version} {self.lines()}")
            (stage / CYCLONEDX_NAME).write_text(as_cyclonedx(self.inventory()))
            key = build_key(profile, "")
            size = sif.stat().st_size
            image = Image("base", profile.version, sif, file_digest(sif), size, 1.5, {}, profile, 0, build_key=key)
            return builder._Made(image, None)

        monkeypatch.setattr(builder._Build, "make", make)
        monkeypatch.setattr(rebuild, "resolve_packages", lambda *_, **__: self.lines())
        monkeypatch.setattr(rebuild, "check_machine", lambda *_: None)


def publish_recipe(store: Store, folder: Path, version: str = "1.2", text: str = RECIPE) -> Image:
    """Build a version from a recipe."""
    recipe = folder / "base.yaml"
    recipe.write_text(text.format(version=version))
    return builder.build(recipe, store=store, work=folder).image
