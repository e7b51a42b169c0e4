"""The limit on the lines of a log, with real loggers and handlers."""

from __future__ import annotations

import io
import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest

from broker.service import log_limit
from broker.service.log_limit import (
    ALWAYS,
    LINES_PER_WINDOW,
    MAX_MESSAGE_CHARS,
    TRACEBACKS_PER_WINDOW,
    LogLimit,
    install_log_limit,
)
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator


class Log:
    """A logger of its own, limited, and what it has written."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.logger = logging.getLogger(f"limited-{id(self)}")
        self.logger.propagate = False
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        self.logger.addHandler(self.handler)
        install_log_limit(self.logger)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    def until(self, count: int) -> list[str]:
        deadline = time.monotonic() + DEADLINE_S
        while len(self.lines) < count:
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)
        return self.lines


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.logger.removeHandler(made.handler)


def test_lines_above_the_limit_are_counted_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_limit, "WINDOW_S", 0.3)
    for number in range(LINES_PER_WINDOW + 500):
        log.logger.warning("refused: %s", f"name-{number}")
    assert len(log.lines) == LINES_PER_WINDOW
    summary = log.until(LINES_PER_WINDOW + 1)[-1]
    assert summary == "WARNING 500 more like this in the last 0.3 s: refused: name-599"
    log.logger.warning("afterwards")
    assert log.until(LINES_PER_WINDOW + 2)[-1] == "WARNING afterwards"


def test_other_lines_of_code_keep_their_room(log: Log) -> None:
    for _ in range(LINES_PER_WINDOW + 1):
        log.logger.warning("a flood")
    log.logger.warning("something else")
    assert log.lines[-1] == "WARNING something else"


def test_templates_that_a_client_chooses_share_one_limit(log: Log) -> None:
    for number in range(20_000):
        log.logger.warning(f"made up {number}")  # noqa: G004 - a library does so
    assert len(log.lines) == LINES_PER_WINDOW
    (limit,) = log.handler.filters
    assert isinstance(limit, LogLimit)
    assert len(limit._windows) == 1


def test_tracebacks_have_a_smaller_limit(log: Log) -> None:
    for _ in range(TRACEBACKS_PER_WINDOW + 20):
        try:
            raise ValueError("no")
        except ValueError:
            log.logger.exception("failed")
    assert log.stream.getvalue().count("Traceback") == TRACEBACKS_PER_WINDOW


def test_marked_lines_are_always_written(log: Log) -> None:
    for number in range(LINES_PER_WINDOW * 3):
        log.logger.warning("login %d", number, extra=ALWAYS)
    assert len(log.lines) == LINES_PER_WINDOW * 3


def test_a_message_is_one_bounded_printable_line(log: Log) -> None:
    log.logger.warning("asked for %s", "a\nERROR forged\x1b[2J\x85\u2028" + "x" * 100_000)
    (line,) = log.lines
    assert line.startswith(r"WARNING asked for a\nERROR forged\x1b[2J\x85\u2028xxx")
    assert len(line) < MAX_MESSAGE_CHARS + 100


def test_counts_are_written_at_the_end(log: Log) -> None:
    for _ in range(LINES_PER_WINDOW + 7):
        log.logger.warning("a flood")
    (limit,) = log.handler.filters
    assert isinstance(limit, LogLimit)
    limit.summarise(everything=True)
    assert log.lines[-1].startswith("WARNING 7 more like this")


def test_threads_lose_no_count(log: Log) -> None:
    def flood() -> None:
        for _ in range(1000):
            log.logger.warning("a flood")

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (limit,) = log.handler.filters
    assert isinstance(limit, LogLimit)
    limit.summarise(everything=True)
    assert log.lines[-1].startswith(f"WARNING {4000 - LINES_PER_WINDOW} more like this")


def test_a_message_that_cannot_be_formatted_breaks_nothing(log: Log) -> None:
    (limit,) = log.handler.filters
    assert isinstance(limit, LogLimit)
    wrong = logging.LogRecord("x", logging.WARNING, "x.py", 1, "%d", ("no number",), None)
    passed = [limit.filter(wrong) for _ in range(LINES_PER_WINDOW + 1)]
    assert passed.count(False) == 1
    limit.summarise(everything=True)
    assert log.lines == ["WARNING 1 more like this in the last 10 s: %d"]


def test_a_second_installation_changes_nothing(log: Log) -> None:
    install_log_limit(log.logger)
    assert len(log.handler.filters) == 1
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
