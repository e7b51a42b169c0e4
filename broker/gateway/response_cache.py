"""A cache of the controller's last responses on disk, for the time while the controller is away.

Each response is a file, so all workers of a gateway share the cache, also after a reload. Only successful responses are
kept, so invented names leave nothing here. Every minute, old responses are removed, and the oldest above the limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

REWRITE_AFTER_S = 60.0
"""Seconds after which the same answer is written again, with its time; not at every connection."""
MAX_KNOWN_WRITTEN = 4096
MAX_FILES = 16384
"""Answers that are kept; each is a file of up to some 100 KiB, mostly of less than one."""
PRUNE_INTERVAL_S = 60.0

Answer = TypeVar("Answer", bound=BaseModel)

_log = logging.getLogger(__name__)


class ResponseCache(Generic[Answer]):
    """The responses of one kind, by request.

    The time is the machine's: processes share it, and over a restart there is no other.
    """

    def __init__(
        self,
        directory: Path,
        kind: type[Answer],
        *,
        stale_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`directory` is created for its owner only. Responses older than `stale_seconds` are removed and not used."""
        self._directory = directory
        self._kind = kind
        self._stale = stale_seconds
        self._clock = clock
        self._written: OrderedDict[Path, tuple[str, float]] = OrderedDict()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.prune()

    def keep(self, question: tuple[str, ...], answer: Answer) -> None:
        """Store the response. A failed write is only logged: the copy is needed only while the controller is away."""
        path, text, now = self._path(question), answer.model_dump_json(exclude_defaults=True), self._clock()
        before, at = self._written.get(path, ("", 0.0))
        if text == before and now - at < REWRITE_AFTER_S:
            return
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            draft.write_text(text, encoding="utf-8")
            os.utime(draft, (now, now))
            draft.replace(path)
        except OSError as error:
            _log.warning("an answer of the controller is not remembered: %s", error)
            return
        self._written[path] = (text, now)
        self._written.move_to_end(path)
        while len(self._written) > MAX_KNOWN_WRITTEN:
            self._written.popitem(last=False)

    def recall(self, question: tuple[str, ...]) -> Answer | None:
        """Return the last response, unless it is too old."""
        path = self._path(question)
        try:
            if self._clock() - path.stat().st_mtime > self._stale:
                return None
            return self._kind.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def forget(self, question: tuple[str, ...]) -> None:
        """Remove the response, which is outdated."""
        path = self._path(question)
        self._written.pop(path, None)
        path.unlink(missing_ok=True)

    def _path(self, question: tuple[str, ...]) -> Path:
        return self._directory / hashlib.sha256("\0".join(question).encode()).hexdigest()

    def prune(self) -> None:
        """Remove answers that are too old to use, and the oldest above the limit. May run in a thread of its own."""
        ages: list[tuple[float, str]] = []
        now = self._clock()
        with contextlib.suppress(FileNotFoundError), os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another worker was quicker
                    ages.append((now - entry.stat(follow_symlinks=False).st_mtime, entry.path))
        ages.sort()
        for place, (age, path) in enumerate(ages):
            if age > self._stale or place >= MAX_FILES:
                with contextlib.suppress(FileNotFoundError):
                    Path(path).unlink()


async def prune_periodically(*memories: ResponseCache[Any]) -> None:
    """Prune them every minute, without holding up the loop, until cancelled."""
    while True:
        await asyncio.sleep(PRUNE_INTERVAL_S)
        for memory in memories:
            try:
                await asyncio.to_thread(memory.prune)
            except OSError as error:
                _log.warning("old answers of the controller are not removed: %s", error)
