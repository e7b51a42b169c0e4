"""The groups of users, from the machine's name service, which may take seconds to answer or be away."""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd
from concurrent.futures import ThreadPoolExecutor

from broker.controller import clock
from broker.single_flight import SingleFlight

VALID_S = 300.0
"""Seconds for which the groups of a user are used. slurmctld reads groups every ten minutes (GroupUpdateTime)."""
PATIENCE_S = 2.0
"""Seconds that a caller waits for the name service."""
MAX_USERS = 10_000
"""Users whose groups are remembered."""

log = logging.getLogger(__name__)


class UserGroups:
    """The groups of users. A thread of its own asks the name service, so that nothing else waits for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="groups")
        self._lookups = SingleFlight[str, None]()
        self._known: dict[str, tuple[frozenset[str], float]] = {}
        """The groups and the time of the answer, by user."""

    async def of(self, user: str) -> frozenset[str]:
        """Return the names of the user's groups; the last known ones, or none, if the name service does not answer."""
        known, at = self._known.get(user, (frozenset(), None))
        if at is not None and clock.monotonic() - at < VALID_S:
            return known
        await asyncio.wait({self._lookups.join(user, lambda: self._look_up(user))}, timeout=PATIENCE_S)
        return self._known.get(user, (known, None))[0]

    async def close(self) -> None:
        """Cancel the lookups."""
        await self._lookups.close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, user: str) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, _group_names, user)
        except OSError as error:
            log.warning("no answer about groups user=%s error=%s", user, error)
            return
        if len(self._known) >= MAX_USERS:
            self._known.clear()
        self._known[user] = (found, clock.monotonic())


def _group_names(user: str) -> frozenset[str]:
    try:
        ids = os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except KeyError:
        return frozenset()
    return frozenset(name for name in map(_group_name, ids) if name)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""
