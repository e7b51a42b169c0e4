"""Run the copies of single files in threads beside the walk of the tree.

One thread copies at the speed of one processor, and waits for the disk whenever much is unwritten. Python lets other
threads run during system calls, which are nearly all of the work for a large file.

The standard library alone: the copy of a running session runs this in its job (docs/reference/session-job.md).
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from broker.volumes.content import SMALL_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from broker.volumes.copied_folders import CopiedFolder
    from broker.volumes.entry_copy import OpenedFile, ProvenState

MIN_THREADS, MAX_THREADS = 2, 4
"""Two use one processor and the disk at the same time."""
THREAD_NAME = "tree-copy"
TASKS_PER_THREAD = 4
"""Tasks for each thread that may be unfinished. The task of a file has two open descriptors."""


def is_for_threads(status: os.stat_result) -> bool:
    """Whether a thread may copy the file: a large one, with one name, as the next name needs the finished copy."""
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size > SMALL_BYTES


class CopyTask:
    """The copy of a file that a thread makes, and its result."""

    def __init__(self, folder: CopiedFolder, name: str, opened: OpenedFile) -> None:
        self.folder = folder
        self.name = name
        self._opened = opened
        self._state: ProvenState | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Make the copy. No exception leaves the thread."""
        try:
            self._state = self._opened.copy()
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._error = error

    def discard(self) -> None:
        """Close the file instead."""
        with contextlib.suppress(OSError):
            self._opened.close()

    def result(self) -> ProvenState:
        """Return the result of the copy, or raise its error."""
        if self._error is not None:
            raise self._error
        assert self._state is not None
        return self._state


class CopyThreads:
    """Threads that run tasks, and give them back to the thread that has submitted them. A context manager."""

    def __init__(self) -> None:
        self._count = max(MIN_THREADS, min(MAX_THREADS, len(os.sched_getaffinity(0))))
        self._tasks: SimpleQueue[CopyTask | None] = SimpleQueue()
        self._finished: SimpleQueue[CopyTask] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the threads. After an error, no task is begun any more, and none that is running is waited for."""
        with contextlib.suppress(Empty):
            while error is not None:
                if (task := self._tasks.get_nowait()) is not None:
                    task.discard()
        for _ in self._threads:
            self._tasks.put(None)
        while self._threads:
            thread = self._threads.pop()
            if error is None:
                thread.join()

    def submit(self, task: CopyTask) -> None:
        """Let a thread run the task; without any thread it is run at once."""
        self._unfinished += 1
        if len(self._threads) < self._count:
            self._start_thread()
        if self._threads:
            self._tasks.put(task)
        else:
            task.run()
            self._finished.put(task)

    def take_finished(self, *, wait: bool = False) -> Iterator[CopyTask]:
        """Yield finished tasks. Wait while more are unfinished than may be, or, with `wait`, while any is."""
        most = 0 if wait else self._count * TASKS_PER_THREAD
        while self._unfinished > most or not self._finished.empty():
            task = self._finished.get()
            self._unfinished -= 1
            yield task

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
        try:
            thread.start()
        except RuntimeError:  # as many as the user may have
            return
        self._threads.append(thread)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
            self._finished.put(task)
