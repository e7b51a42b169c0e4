"""Repeat an action of a service for ever, whatever errors it raises."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from broker.errors import BerthError
from broker.service.lasting_states import LastingStates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_STATES = LastingStates(logging.getLogger(__name__))


async def repeat(name: str, action: Callable[[], Awaitable[None]], interval_s: float, retry_s: float) -> NoReturn:
    """Run the action every `interval_s`, and `retry_s` after an error. An error that lasts is logged once."""
    while True:
        try:
            await action()
        except Exception as error:  # noqa: BLE001 - the next attempt must come after any error
            cause = None if isinstance(error, BerthError) else error
            _STATES.report(name, logging.WARNING, f"{name} failed error={error!r}", cause=cause)
            await asyncio.sleep(retry_s)
        else:
            _STATES.end(name)
            await asyncio.sleep(interval_s)
