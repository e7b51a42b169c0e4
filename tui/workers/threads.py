"""Run blocking calls in threads that never keep the program alive."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")


async def in_thread(call: Callable[[], _Result]) -> _Result:
    """Return the result of a blocking call, or raise its exception, while the application stays usable.

    The thread is a daemon: a call that takes an hour does not delay the end of the program.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def finish(result: _Result | None, error: Exception | None) -> None:
        if future.done():  # the caller was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only if the call returns None

    def work() -> None:
        result: _Result | None = None
        failure: Exception | None = None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - raised again by the caller
            failure = error
        with contextlib.suppress(RuntimeError):  # the application has ended
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=work, name="berth-request", daemon=True).start()
    return await future
