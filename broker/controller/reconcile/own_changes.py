"""The packages and files that a session's user has added to its system, which another image would not have."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import BerthError
from broker.launcher.arguments import DiffArguments

if TYPE_CHECKING:
    from collections.abc import Iterable

    from broker.controller.images import ImageFinder
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.models import Session

MAX_NAMED = 5
"""Packages or files that a sentence names."""


MAX_KEPT_NAMES, MAX_NAME_CHARS = 50, 200
"""Packages, and files, that a session's row names, and the characters of each."""


@dataclass(frozen=True, slots=True)
class OwnSystem:
    """The user's own changes of a system."""

    packages: list[str]
    files: list[str]
    """Absolute paths."""

    def __bool__(self) -> bool:
        return bool(self.packages or self.files)

    def describe(self) -> str:
        """Return the changes as a part of a sentence."""
        parts = [("packages of its own", self.packages), ("files outside the home", self.files)]
        return " and ".join(f"{what} ({_some(names)})" for what, names in parts if names)


NOTHING_OWN = OwnSystem([], [])


class OwnChangesFinder:
    """Finds the user's own changes of the system of sessions without a job."""

    def __init__(self, launcher: LauncherClient, images: ImageFinder) -> None:
        self._launcher = launcher
        self._images = images

    async def of(self, session: Session) -> OwnSystem:
        """Return the changes; nothing for a session whose system is reset at each start. Raises LauncherError."""
        if session.policy.system == "fresh" and not session.policy.keep:
            return NOTHING_OWN
        try:
            image = await self._images.require_image(session.owner, *session.image.values())
        except BerthError as error:
            raise LauncherError("conflict", error.message) from error
        arguments = DiffArguments(
            session=session.id,
            base_packages=await self._images.packages(session.owner, image),
            image=str(image.path),
            offset=image.offset,
            own=True,
        )
        report = await self._launcher.diff(session.owner, arguments, base="")
        packages = [each.name if each.after else f"{each.name} (removed)" for each in report.packages]
        return OwnSystem(_limit_names(packages), _limit_names(f"/{each.path}" for each in report.files))


def _limit_names(names: Iterable[str]) -> list[str]:
    """Return what a session's row can hold: its user chooses names and paths."""
    return [_replace_controls(name)[:MAX_NAME_CHARS] for name in itertools.islice(names, MAX_KEPT_NAMES)]


def _replace_controls(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)


def _some(names: list[str]) -> str:
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
