"""The directories that a session has in /run/berth, with the real program that starts its services."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Self

from broker.job import bundle
from profiles.recipe.service import Service, format_services
from tests.processes import process_children

if TYPE_CHECKING:
    from pathlib import Path


class SessionDirectories:
    """Make the directories below `base`. At the end of the context, all supervisors and their services are killed."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for each in ("node", "web", "session", "home/.config/berth/services.d"):
            (base / each).mkdir(parents=True)
        self.program = base / "node/service"
        self.program.write_bytes(bundle.join_parts(bundle.SERVICE_SCRIPT))

    def declare(self, *services: Service) -> None:
        """Let the profile have these services."""
        (self.base / "session/services").write_text(format_services(services))

    def supervisors(self) -> list[int]:
        return [int(file.read_text()) for file in (self.base / "node/services").glob("*/pid")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.supervisors():
            groups = process_children(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            for group in groups:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
