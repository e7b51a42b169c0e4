"""SIGTERM as an interruption: what was begun is undone, as after Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within this, SIGTERM raises KeyboardInterrupt in the main thread; other threads may not change signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within this, SIGINT and SIGTERM wait: tearing down must come to its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
