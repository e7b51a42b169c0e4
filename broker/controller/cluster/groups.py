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
ACCOUNT_PATIENCE_S = 0.5
"""Seconds that a caller waits to learn that an account is gone. Without an answer, it is not."""
THREADS = 4
"""Lookups of present groups at once. More would only wait for the same directory."""
MAX_USERS = 10_000
"""Users whose groups are remembered."""

log = logging.getLogger(__name__)


class UserGroups:
    """The groups of users. A thread of its own asks the name service, so that nothing else waits for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="groups")
        self._current_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="current-groups")
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

    async def look_up(self, user: str) -> frozenset[str]:
        """Return the names of the user's groups, as the name service has them now.

        No groups if it fails, or takes longer than PATIENCE_S. Access depends on the answer: nothing is remembered.
        """
        lookup = asyncio.get_running_loop().run_in_executor(self._current_threads, _group_names, user)
        try:
            return await asyncio.wait_for(lookup, PATIENCE_S)
        except (OSError, TimeoutError) as error:
            log.warning("no answer about groups, so none count user=%s error=%r", user, error)
            return frozenset()

    async def has_account(self, name: str) -> bool:
        """Whether there is a user of that name, or with `@` before it a group. False without an answer."""
        lookup = asyncio.get_running_loop().run_in_executor(self._current_threads, _has_account, name)
        try:
            return await asyncio.wait_for(lookup, PATIENCE_S)
        except (OSError, TimeoutError) as error:
            log.warning("no answer about an account name=%s error=%r", name, error)
            return False

    async def is_gone(self, user: str) -> bool:
        """Whether the name service says now that there is no such user. False without an answer."""
        lookup = asyncio.get_running_loop().run_in_executor(self._current_threads, _has_account, user)
        try:
            return not await asyncio.wait_for(lookup, ACCOUNT_PATIENCE_S)
        except (OSError, TimeoutError):  # `look_up` and `has_account` log that the name service does not answer
            return False

    async def close(self) -> None:
        """Cancel the lookups."""
        await self._lookups.close()
        for threads in (self._thread, self._current_threads):
            threads.shutdown(wait=False, cancel_futures=True)

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


def _has_account(name: str) -> bool:
    try:
        if name.startswith("@"):
            grp.getgrnam(name[1:])
        else:
            pwd.getpwnam(name)
    except KeyError:
        return False
    return True
