"""One task for each key; all callers join it while it runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Iterator

_Key = TypeVar("_Key", bound="Hashable")
_Result = TypeVar("_Result")


class SingleFlight(Generic[_Key, _Result]):
    """The running tasks, by key.

    A task that has ended is never joined. asyncio calls a task's callbacks in a later iteration of the event loop than
    the one in which the task ends. A caller in between must not get the result of a task that ended before its call.
    """

    def __init__(self, ended: Callable[[_Key, asyncio.Task[_Result]], None] | None = None) -> None:
        """`ended` is called once for each task, soon after its end."""
        self._ended = ended
        self._tasks: dict[_Key, asyncio.Task[_Result]] = {}

    def join(self, key: _Key, begin: Callable[[], Coroutine[Any, Any, _Result]]) -> asyncio.Task[_Result]:
        """Return the running task of that key; if there is none, start one with the coroutine that `begin` returns."""
        task = self._tasks.get(key)
        if task is None or task.done():
            task = self._tasks[key] = asyncio.create_task(begin())
            task.add_done_callback(lambda done: self._forget(key, done))
        return task

    def __contains__(self, key: _Key) -> bool:
        task = self._tasks.get(key)
        return task is not None and not task.done()

    def __iter__(self) -> Iterator[_Key]:
        """Iterate over the keys of the running tasks."""
        return (key for key, task in self._tasks.items() if not task.done())

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def tasks(self) -> list[asyncio.Task[_Result]]:
        """The running tasks."""
        return [task for task in self._tasks.values() if not task.done()]

    def cancel(self, key: _Key) -> bool:
        """Cancel the running task of that key; return whether there was one."""
        return key in self and self._tasks[key].cancel()

    async def close(self) -> None:
        """Cancel the running tasks, and return when they have ended."""
        tasks = self.tasks
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, key: _Key, task: asyncio.Task[_Result]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if self._ended is not None:
            self._ended(key, task)
