"""A limit on log lines: clients can cause the same line again and again, but only some are written.

The limit counts by the line of code that logs, so that what is kept has the size of the program and not of its input.
Lines above the limit are counted, and the count is logged with the last of them.
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
"""One line of code gets its allowance anew this long after the first line that it logged."""
LINES_PER_WINDOW = 100
"""Enough for a change of a hundred sessions at once. Under abuse one line of code adds at most some 100 MB a day."""
TRACEBACKS_PER_WINDOW = 5
"""A traceback has some fifty lines, and the second one of a kind seldom says more than the first."""
MAX_MESSAGE_CHARS = 2000
"""Clients choose parts of some messages: paths, names, versions."""
QUIET_LIBRARIES = ("httpx",)
"""Libraries that log a line at INFO for each request, with what the client asked for."""

ALWAYS: Final = {"always_logged": True}
"""`log.info(…, extra=ALWAYS)`: a line that no limit may hold back, such as who has logged in."""


def install(logger: logging.Logger | None = None) -> None:
    """Limit every handler that `logger`, or the root logger, has now. A second call changes nothing."""
    for handler in (logger or logging.getLogger()).handlers:
        if not any(isinstance(each, LogLimit) for each in handler.filters):
            handler.addFilter(LogLimit(handler))
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)


_Place = tuple[str, int, str, int, bool]
"""Logger, level, file and line that log, and whether there is a traceback."""


@dataclass(slots=True)
class _Window:
    ends_at: float
    passed: int = 0
    held_back: int = 0
    last: tuple[str, object] = ("", None)
    """Message and arguments of the last line that was held back."""


class LogLimit(logging.Filter):
    """A filter of one handler, for any number of threads. It also keeps every message to one line of bounded length."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler
        self._lock = threading.Lock()
        self._windows: dict[_Place, _Window] = {}
        self._timer: threading.Timer | None = None
        atexit.register(self.summarise, everything=True)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written. A record that is held back costs little: its message is not even formatted."""
        if not getattr(record, "always_logged", False) and not self._has_room(record):
            return False
        with contextlib.suppress(Exception):  # a message that cannot be formatted is the handler's to report
            record.msg, record.args = _one_line(record.getMessage()), None
        return True

    def summarise(self, *, everything: bool = False) -> None:
        """Log the count of lines that were held back in windows that have ended, or in all."""
        with self._lock:
            now = time.monotonic()
            over = {place: each for place, each in self._windows.items() if everything or each.ends_at <= now}
            for place in over:
                del self._windows[place]
            self._timer = None
            self._set_timer(now)
        for place, window in over.items():
            if window.held_back:
                self._handler.handle(_summary(place, window))

    def _has_room(self, record: logging.LogRecord) -> bool:
        traceback = record.exc_info is not None and record.exc_info[0] is not None
        place = (record.name, record.levelno, record.pathname, record.lineno, traceback)
        with self._lock:
            now = time.monotonic()
            window = self._windows.get(place)
            if window is None or (window.ends_at <= now and not window.held_back):
                window = self._windows[place] = _Window(now + WINDOW_S)
            if window.passed < (TRACEBACKS_PER_WINDOW if traceback else LINES_PER_WINDOW):
                window.passed += 1
                return True
            window.held_back += 1
            window.last = (record.msg, record.args)
            self._set_timer(now)
            return False

    def _set_timer(self, now: float) -> None:
        """Have what is held back summarised soon after its window has ended; the caller holds the lock."""
        ends = [each.ends_at for each in self._windows.values() if each.held_back]
        if self._timer is None and ends:
            self._timer = threading.Timer(max(min(ends) - now, 0.0), self.summarise)
            self._timer.daemon = True
            with contextlib.suppress(
                RuntimeError
            ):  # no thread any more, at the end of the process: atexit has the rest
                self._timer.start()


def _summary(place: _Place, window: _Window) -> logging.LogRecord:
    name, level, path, line, _ = place
    message, args = window.last
    with contextlib.suppress(Exception):
        message = logging.LogRecord(name, level, path, line, message, args, None).getMessage()  # type: ignore[arg-type]
    text = f"{window.held_back} more like this in the last {WINDOW_S:g} s: {message}"
    summary = logging.LogRecord(name, level, path, line, text, None, None)
    summary.always_logged = True
    return summary


def _one_line(text: str) -> str:
    """The text without control characters, which could forge a line or move a terminal's cursor, and cut."""
    if len(text) > MAX_MESSAGE_CHARS:
        text = f"{text[:MAX_MESSAGE_CHARS]}… ({len(text)} characters)"
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
