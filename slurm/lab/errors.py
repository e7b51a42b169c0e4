"""The only error of the lab: a message, a log and a remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LabError(Exception):
    """A step failed. `hint` is the remedy, `log` the file that has the details."""

    def __init__(self, message: str, *, hint: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log

    def render(self) -> str:
        """Return the message, its log and its remedy as lines for a terminal."""
        lines = [f"slurm.lab: {self.message}"]
        if self.log is not None:
            lines.append(f"  log:    {self.log}")
        if self.hint:
            lines.append(f"  remedy: {self.hint}")
        return "\n".join(lines)
