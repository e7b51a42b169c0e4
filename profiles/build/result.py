"""The result of a build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from profiles.build.import_report import ImportReport
    from profiles.build.steps import StepRecord
    from profiles.image.store import Image


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The published image of a recipe."""

    image: Image
    built: bool
    """False if the version was published before, from what the recipe still reads."""
    steps: tuple[StepRecord, ...] = ()
    imported: ImportReport | None = None
    """The report of a container image that is the base."""
