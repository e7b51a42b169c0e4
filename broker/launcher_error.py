"""What the launcher answers when a verb did not do what was asked."""

from __future__ import annotations

from broker.errors import BerthError


class LauncherError(BerthError):
    """A verb did not do what was asked; `kind` as in launcher_verbs.VerbError, or `crashed`, `timed-out`, `gone`."""

    reason = "launcher"

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    @property
    def unclear(self) -> bool:
        """Whether what was asked may have been done all the same."""
        return self.kind in {"unclear", "crashed", "timed-out", "gone"}
