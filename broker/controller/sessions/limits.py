"""Limits on the sessions, GPUs and disk space of one user. A request beyond them is refused with a message."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from broker.controller import clock
from broker.controller.launcher_client.answers import MOST_BYTES
from broker.controller.launcher_client.errors import LauncherError
from broker.errors import ConflictError, RefusedError
from broker.format import format_size
from broker.schema.admin import LimitUse
from broker.schema.sessions import LIVE
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from broker.config.settings import LimitSettings
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.registry.async_registry import AsyncRegistry

log = logging.getLogger(__name__)

HOUR_S = 3600.0
USAGE_TTL_S = 600.0
USAGE_TIMEOUT_S = 5.0
"""Seconds that a request waits for a measurement, which reads all inodes of the user's layers."""


class Limits:
    """Limits of each user.

    A caller that creates or starts a session holds the user's lock while it checks the limits and records the session.
    """

    def __init__(self, settings: LimitSettings, registry: AsyncRegistry, launcher: LauncherClient) -> None:
        self._settings = settings
        self._registry = registry
        self._launcher = launcher
        self._measured: dict[str, tuple[float, int]] = {}
        """The time and the result, in bytes, of the last measurement of each user's sessions."""
        self._measuring = SingleFlight[str, None]()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, user: str) -> asyncio.Lock:
        """Return the lock to hold from the check until the record: two requests must not both take the last place."""
        return self._locks.setdefault(user, asyncio.Lock())

    async def check_another(self, user: str) -> None:
        """Raise RefusedError at the limit of sessions. Stopped sessions count, deleted ones do not."""
        most = self._settings.sessions
        if most is None:
            return
        count = len(await self._registry.sessions_of(user))
        if count >= most:
            raise RefusedError(
                f"session limit reached ({count} of {most})",
                hint="`berth list` shows your sessions, `berth delete NAME` removes one",
            )

    async def check_storage(self, user: str) -> None:
        """Raise RefusedError if the user's sessions take more disk space than the limit.

        A measurement is reused for USAGE_TTL_S, but repeated for a user above the limit, so that freed space counts at
        once. One that takes longer than USAGE_TIMEOUT_S continues in the background.
        """
        most = self._settings.storage
        if most is None:
            return
        at, taken = self._measured.get(user, (-math.inf, 0))
        if clock.now() - at > USAGE_TTL_S or taken > most:
            measuring = self._measuring.join(user, lambda: self._measure(user))
            await asyncio.wait({measuring}, timeout=USAGE_TIMEOUT_S)
            _, taken = self._measured.get(user, (-math.inf, 0))
        if taken > most:
            raise RefusedError(
                f"disk space limit reached: your sessions take {format_size(taken)} of {format_size(most)}",
                hint="`berth size NAME` shows what takes space; `berth snapshots NAME --delete N`, `berth delete "
                "NAME --purge` and `berth gc` free some",
            )

    async def storage_left(self, user: str) -> int:
        """Return the bytes that a clone of a shared snapshot may take: MOST_BYTES without a limit.

        RefusedError as check_storage. ConflictError while another such clone of the user is made, since that one may
        take all of it, and without a measurement that has begun after the last clone. The caller holds the user's lock.
        """
        most = self._settings.storage
        if most is None:
            return MOST_BYTES
        for session in await self._registry.sessions_of(user):
            if session.pending is not None and session.pending.receives:
                raise ConflictError(
                    f"your clone {session.name} is not complete yet, and may take all the space that is left to you",
                    hint=f"try again when it is complete: `berth show {session.name}`",
                )
        for _ in range(2):  # the first measurement may have begun too early
            await self.check_storage(user)
            if user in self._measured:
                at, taken = self._measured[user]
                if not await self._registry.count_events(user, "clone-done", at):
                    return max(0, most - taken)
                self._measured.pop(user, None)
        raise ConflictError("the space that your sessions take is not measured yet", hint="try again in a minute")

    async def uses(self, user: str) -> list[LimitUse]:
        """Return each limit with the user's present use of it, under the names of the settings."""
        sessions = await self._registry.sessions_of(user)
        starts = await self._registry.count_events(user, "start", clock.now() - HOUR_S)
        measuring = self._measuring.join(user, lambda: self._measure(user))
        await asyncio.wait({measuring}, timeout=USAGE_TIMEOUT_S)
        _, taken = self._measured.get(user, (0.0, None))
        used = {
            "sessions": len(sessions),
            "gpu_sessions": sum(1 for each in sessions if each.state in LIVE and each.job.gpus),
            "storage": taken,
            "starts_per_hour": starts,
        }
        return [LimitUse(name=name, used=count, most=getattr(self._settings, name)) for name, count in used.items()]

    async def _measure(self, user: str) -> None:
        try:
            self._measured[user] = (clock.now(), await self._launcher.usage(user))
        except LauncherError as error:  # a failed measurement must not lock the user out
            self._measured.pop(user, None)
            log.warning("disk usage not measured user=%s error=%s", user, error.message)

    async def check_start(self, user: str, gpus: float, *, instead_of: str = "") -> None:
        """Raise RefusedError at the limit of starts within an hour, or of sessions with GPUs.

        The session `instead_of` is not counted, since its present job ends before.
        """
        most = self._settings.starts_per_hour
        if most is not None:
            count = await self._registry.count_events(user, "start", clock.now() - HOUR_S)
            if count >= most:
                raise RefusedError(
                    f"limit of starts within an hour reached ({count} of {most})",
                    hint="try again later; a running session needs no new start",
                )
        await self._check_gpus(user, gpus, instead_of)

    async def _check_gpus(self, user: str, gpus: float, instead_of: str) -> None:
        most = self._settings.gpu_sessions
        if most is None or not gpus:
            return
        sessions = await self._registry.sessions_of(user)
        counted = [session for session in sessions if session.name != instead_of and session.state in LIVE]
        names = sorted(session.name for session in counted if session.job.gpus)
        if len(names) >= most:
            raise RefusedError(
                f"limit of sessions with a GPU reached ({len(names)} of {most}): {', '.join(names)}",
                hint=f"`berth stop {names[0]}` frees one, or start this session without a GPU",
            )
