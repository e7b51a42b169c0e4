"""Report how far long work on a session's files is, in a small file that the command line reads as the user.

A process works for one session at a time, so the present report belongs to the process. A lost report harms nothing: no
function raises OSError. The standard library alone: the copy of a running session runs this in its job.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = "progress"
"""In a user's storage: a file for each session whose files are copied, read or removed now."""

WRITE_INTERVAL_S = 0.4
"""Time between two writes of the file. Work that takes less writes none."""

MAX_REPORT_BYTES = 200
"""Limit for the file."""

STALE_S = 60.0
"""Age of a report that a killed process has left."""


class Amounts(NamedTuple):
    """The work that is done."""

    files: int
    done_bytes: int
    expected_bytes: int
    """0 if it is not known."""


class ProgressReport:
    """Counts the work of all threads, and writes the counts to `path` at most every WRITE_INTERVAL_S."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._files = self._done = self._expected = 0
        self._due = time.monotonic() + WRITE_INTERVAL_S
        self._lock = threading.Lock()

    def expect(self, size: int) -> None:
        """Add `size` bytes to the amount of work."""
        self._expected += size

    def add(self, files: int, size: int) -> None:
        """Count work that is done."""
        with self._lock:
            self._files += files
            self._done += size
            if time.monotonic() >= self._due:
                self._write()
                self._due = time.monotonic() + WRITE_INTERVAL_S

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _write(self) -> None:
        draft = f"{self._path}.{os.getpid()}"
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            try:
                os.write(descriptor, b"%d %d %d %d\n" % (self._files, self._done, self._expected, int(time.time())))
            finally:
                os.close(descriptor)
            os.rename(draft, self._path)


_report: ProgressReport | None = None


def progress_path(root: str | os.PathLike[str], session_id: str) -> str:
    """Return the path of a session's report in a user's storage."""
    return os.path.join(root, FOLDER, session_id)


@contextlib.contextmanager
def report_progress(path: str) -> Iterator[None]:
    """Report what `expect` and `count` get until the end of the context. With an empty path, report nothing."""
    global _report  # noqa: PLW0603 - one piece of work in a process
    before, _report = _report, ProgressReport(path) if path else None
    try:
        yield
    finally:
        if _report is not None:
            _report.close()
        _report = before


def expect(size: int) -> None:
    """Add `size` bytes to the amount of the present work."""
    if _report is not None:
        _report.expect(size)


def count(files: int = 0, size: int = 0) -> None:
    """Count files and bytes that the present work has handled."""
    if _report is not None:
        _report.add(files, size)


def parse_progress(text: str, now: float) -> Amounts | None:
    """Return the amounts of a report; None if it is stale or damaged."""
    try:
        files, done, expected, at = (int(word) for word in text.split())
    except ValueError:
        return None
    if min(files, done, expected) < 0 or not abs(now - at) < STALE_S:
        return None
    return Amounts(files, done, expected)
