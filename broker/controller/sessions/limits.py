"""Limits on the sessions, GPUs and disk space of one user. A request beyond them is refused with a message."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from broker.controller.launcher_client.errors import LauncherError
from broker.errors import RefusedError
from broker.format import format_size
from broker.schema.sessions import LIVE
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from broker.config.settings import LimitSettings
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry

log = logging.getLogger(__name__)

HOUR = 3600.0
MEASURED_FOR = 600.0
MEASURED_WITHIN = 5.0
"""Seconds: reading all the inodes of a user's layers may take a while, for which nobody waits."""


class Limits:
    """Limits of one user.

    A caller that makes or starts a session takes the user's turn, checks, and records the session within that turn.
    """

    def __init__(self, settings: LimitSettings, registry: AsyncRegistry, launcher: LauncherClient) -> None:
        self._settings = settings
        self._registry = registry
        self._launcher = launcher
        self._measured: dict[str, tuple[float, int]] = {}
        """When it was last measured how many bytes a user's sessions take."""
        self._measuring = SingleFlight[str, None]()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, user: str) -> asyncio.Lock:
        """Held while something of the user's is counted and added to: two at once would both find room for one."""
        return self._turns.setdefault(user, asyncio.Lock())

    async def check_another(self, user: str) -> None:
        """RefusedError if the user has as many sessions as they may, stopped ones counted, deleted ones not."""
        most = self._settings.sessions
        if most is None:
            return
        count = len(await self._registry.sessions_of(user))
        if count >= most:
            raise RefusedError(
                f"you have {_sessions(count)}, and this site allows {most}",
                hint="`berth list` shows them, `berth delete` makes room",
            )

    async def check_storage(self, user: str) -> None:
        """RefusedError if the user's sessions take more disk space than they may, as far as that is known: it is
        measured at most every MEASURED_FOR, but again for whoever is over, so that making room helps at once; and a
        measurement that takes long goes on by itself.
        """
        most = self._settings.storage
        if most is None:
            return
        at, taken = self._measured.get(user, (-math.inf, 0))
        if time.time() - at > MEASURED_FOR or taken > most:
            measuring = self._measuring.join(user, lambda: self._measure(user))
            await asyncio.wait({measuring}, timeout=MEASURED_WITHIN)
            _, taken = self._measured.get(user, (-math.inf, 0))
        if taken > most:
            raise RefusedError(
                f"your sessions take {format_size(taken)} of disk space, and this site allows {format_size(most)}",
                hint="`berth size NAME` says what takes how much; `berth snapshots NAME --delete N`, `berth delete "
                "--purge` and `berth gc` make room",
            )

    async def _measure(self, user: str) -> None:
        try:
            self._measured[user] = (time.time(), await self._launcher.usage(user))
        except LauncherError as error:  # whoever cannot be measured is not locked out
            self._measured.pop(user, None)
            log.warning("what the sessions of %s take is not known: %s", user, error.message)

    async def check_start(self, user: str, gpus: float) -> None:
        """RefusedError if a start with so many GPUs is one too many: within an hour, or beside others with GPUs."""
        most = self._settings.starts_per_hour
        if most is not None:
            count = await self._registry.count_events(user, "start", time.time() - HOUR)
            if count >= most:
                raise RefusedError(
                    f"you have started {_sessions(count)} within the last hour, and this site allows {most}",
                    hint="try again later; a session that is stopped and started again and again may stay up instead",
                )
        await self._check_gpus(user, gpus)

    async def _check_gpus(self, user: str, gpus: float) -> None:
        most = self._settings.gpu_sessions
        if most is None or not gpus:
            return
        sessions = await self._registry.sessions_of(user)
        having = sorted(session.name for session in sessions if session.state in LIVE and session.job.gpus)
        if len(having) >= most:
            raise RefusedError(
                f"you have {_sessions(len(having))} with a GPU, and this site allows {most}: {', '.join(having)}",
                hint=f"`berth stop {having[0]}` gives one back, or start this one without",
            )


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"
