"""A limit on log lines, because clients can cause the same line again and again.

The limit counts by the line of code that logs, so its memory depends on the program's size and not on the input. Lines
above the limit are counted, and the count is logged with the last of them.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

WINDOW_S = 10.0
"""Time from the first line that a line of code logs until its allowance is renewed."""
LINES_PER_WINDOW = 100
"""Enough for a change of a hundred sessions at once. Under abuse, one line of code logs at most some 100 MB a day."""
TRACEBACKS_PER_WINDOW = 5
"""A traceback has some fifty lines, and a second one of the same kind rarely adds information."""
MAX_MESSAGE_CHARS = 2000
"""Clients choose parts of some messages: paths, names, versions."""
QUIET_LIBRARIES = ("httpx",)
"""Libraries that log a line at INFO for each request, with the client's text in it."""

ALWAYS: Final = {"always_logged": True}
"""`log.info(…, extra=ALWAYS)`: a line that no limit may suppress, such as a login."""


def install_log_limit(logger: logging.Logger | None = None) -> None:
    """Limit every present handler of `logger`, or of the root logger. A second call changes nothing."""
    for handler in (logger or logging.getLogger()).handlers:
        if not any(isinstance(each, LogLimit) for each in handler.filters):
            handler.addFilter(LogLimit(handler))
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


_Source = tuple[str, int, str, int, bool]
"""Logger, level, file and line of a log call, and whether it has a traceback."""


@dataclass(slots=True)
class _Window:
    ends_at: float
    passed: int = 0
    suppressed: int = 0
    last: tuple[str, object] = ("", None)
    """Message and arguments of the last suppressed line."""


class LogLimit(logging.Filter):
    """A thread-safe filter of one handler. It also limits each message to one line of bounded length."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler
        self._lock = threading.Lock()
        self._windows: dict[_Source, _Window] = {}
        self._timer: threading.Timer | None = None
        atexit.register(self.summarise, everything=True)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written. The message of a suppressed record is not formatted, to save time."""
        if not getattr(record, "always_logged", False) and not self._has_room(record):
            return False
        with contextlib.suppress(Exception):  # the handler reports a message that cannot be formatted
            record.msg, record.args = _one_line(record.getMessage()), None
        return True

    def summarise(self, *, everything: bool = False) -> None:
        """Log the count of suppressed lines of all windows that have ended, or of all windows."""
        with self._lock:
            now = time.monotonic()
            ended = {source: window for source, window in self._windows.items() if everything or window.ends_at <= now}
            for source in ended:
                del self._windows[source]
            self._timer = None
            self._set_timer(now)
        for source, window in ended.items():
            if window.suppressed:
                self._handler.handle(_summary(source, window))

    def _has_room(self, record: logging.LogRecord) -> bool:
        traceback = record.exc_info is not None and record.exc_info[0] is not None
        source = (record.name, record.levelno, record.pathname, record.lineno, traceback)
        with self._lock:
            now = time.monotonic()
            window = self._windows.get(source)
            if window is None or (window.ends_at <= now and not window.suppressed):
                window = self._windows[source] = _Window(now + WINDOW_S)
            if window.passed < (TRACEBACKS_PER_WINDOW if traceback else LINES_PER_WINDOW):
                window.passed += 1
                return True
            window.suppressed += 1
            window.last = (record.msg, record.args)
            self._set_timer(now)
            return False

    def _set_timer(self, now: float) -> None:
        """Schedule the summary for the end of the first window with suppressed lines. The caller holds the lock."""
        ends = [window.ends_at for window in self._windows.values() if window.suppressed]
        if self._timer is None and ends:
            self._timer = threading.Timer(max(min(ends) - now, 0.0), self.summarise)
            self._timer.daemon = True
            with contextlib.suppress(RuntimeError):  # no new thread at the end of the process; atexit logs the summary
                self._timer.start()


def _summary(source: _Source, window: _Window) -> logging.LogRecord:
    name, level, path, line, _ = source
    message, args = window.last
    with contextlib.suppress(Exception):
        message = logging.LogRecord(name, level, path, line, message, args, None).getMessage()  # type: ignore[arg-type]
    text = f"{window.suppressed} more like this in the last {WINDOW_S:g} s: {message}"
    summary = logging.LogRecord(name, level, path, line, text, None, None)
    summary.always_logged = True
    return summary


def _one_line(text: str) -> str:
    """Shorten the text, and escape control characters, which could forge a line or move a terminal's cursor."""
    if len(text) > MAX_MESSAGE_CHARS:
        text = f"{text[:MAX_MESSAGE_CHARS]}… ({len(text)} characters)"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
