"""The amounts of a long piece of work on a session's files, as the process that does it reports them."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.format import format_size

if TYPE_CHECKING:
    from broker.cli.context import Invocation


class WorkAmounts:
    """Reads the report about a session's files from the user's own storage, with the user's rights.

    A call returns a text such as `1.2 GiB of 2.2 GiB, 3400 files`. It is empty if there is no report, as for short work
    and for jobs of earlier versions.
    """

    def __init__(self, invocation: Invocation, name: str, session_id: str = "") -> None:
        """`session_id`: for what has no name, or whose name is free already."""
        self._invocation = invocation
        self._name = name
        self._session_id = session_id
        self._path: str | None = None
        self.total_bytes = 0
        """The size of the work, as far as it was reported."""

    def __call__(self) -> str:
        from broker.volumes.progress import MAX_REPORT_BYTES, parse_progress
        from profiles.userfile import read_text

        if self._path is None:
            self._path = self._find()
        if not self._path:
            return ""
        try:
            amounts = parse_progress(read_text(self._path, MAX_REPORT_BYTES), time.time())
        except OSError:
            return ""
        if amounts is None:
            return ""
        self.total_bytes = max(self.total_bytes, amounts.done_bytes, amounts.expected_bytes)
        return describe_amounts(amounts.files, amounts.done_bytes, amounts.expected_bytes)

    def _find(self) -> str:
        from broker.volumes.progress import progress_path

        try:
            session_id = self._session_id or self._invocation.client.read_session(self._name).id
            return progress_path(self._invocation.storage, session_id)
        except BerthError:
            return ""


class OwnAmounts:
    """Counts the work of this process. A call returns a text as that of WorkAmounts."""

    def __init__(self) -> None:
        self.files = self.bytes = 0

    def __call__(self) -> str:
        return describe_amounts(self.files, self.bytes)

    def add(self, size: int) -> None:
        """Count one file."""
        self.files += 1
        self.bytes += size


def describe_amounts(files: int, done_bytes: int, expected_bytes: int = 0) -> str:
    """Return a text such as `1.2 GiB of 2.2 GiB, 3400 files`; empty if nothing is done."""
    parts = []
    if done_bytes:
        of = f" of {format_size(expected_bytes)}" if expected_bytes >= done_bytes else ""
        parts.append(f"{format_size(done_bytes)}{of}")
    if files:
        parts.append(f"{files} file{'' if files == 1 else 's'}")
    return ", ".join(parts)
