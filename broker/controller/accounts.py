"""A cache of account names by uid, from the machine's name service.

A directory service may take seconds to answer, or be away. So threads of this cache ask it, and not the event loop. A
name that was found remains valid for a while, because the name service gives the same answer for an account that is
deleted and for a directory that is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pwd
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from broker.controller import clock
from broker.single_flight import SingleFlight

if TYPE_CHECKING:
    from types import TracebackType

FRESH_S = 60.0
"""A name that was found is used this long without asking again; nscd and sssd keep theirs for longer."""
RETRY_S = 10.0
"""Time until the name service is asked again about a uid that it did not know."""
GRACE_S = 3600.0
"""A name that was found counts this long after the name service stopped confirming it. An outage of the directory
locks no user out for that time. An account that was deleted can connect for as long."""
PATIENCE_S = 2.0
"""A known user waits this long for a confirmation."""
SUBORDINATE_RETRY_S = 300.0
"""The same for a subordinate uid: there are many, and accounts among them are rare."""
MAX_MISSING = 65_536
"""Uids without an account that are remembered, at some 130 bytes; /etc/subuid gives each user so many."""
THREADS = 4
"""Lookups at once. More would only wait for the same directory. Subordinate uids have one more thread of their own."""
SUBUID = Path("/etc/subuid")
"""The further uids that each user may use in containers (subuid(5)). A user gets many in no other way."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Known:
    name: str
    found_at: float
    ask_at: float


class AccountCache:
    """A cache that asks the name service in threads. An async context manager."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="accounts")
        self._subordinate_thread = ThreadPoolExecutor(1, thread_name_prefix="subordinates")
        self._subordinates: list[range] = []
        self._read_subuid_at = 0.0
        self._known: dict[int, _Known] = {}
        """One entry for each account of the machine that has called."""
        self._missing: dict[int, float] = {}
        """Time at which the name service is asked again, by uid, oldest first."""
        self._lookups = SingleFlight[int, "str | None"]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lookups.close()
        for threads in (self._threads, self._subordinate_thread):
            threads.shutdown(wait=False, cancel_futures=True)

    def is_missing(self, uid: int) -> bool:
        """Whether the name service reported recently that this uid has no account."""
        return self._missing.get(uid, 0.0) > clock.monotonic()

    def is_known(self, uid: int) -> bool:
        """Whether this uid has had an account within the last hour."""
        known = self._known.get(uid)
        return known is not None and clock.monotonic() - known.found_at < GRACE_S

    def is_subordinate(self, uid: int) -> bool:
        """Whether a user of this machine can become this uid. It may be an account all the same: some directories
        give out numbers from the same range.
        """
        now = clock.monotonic()
        if now >= self._read_subuid_at:
            self._subordinates, self._read_subuid_at = _ranges(SUBUID), now + FRESH_S
        return any(uid in each for each in self._subordinates)

    async def name(self, uid: int) -> str | None:
        """Return the account's name; None for a uid without one."""
        if self.is_missing(uid):
            return None
        known = self._known.get(uid)
        if known is not None and clock.monotonic() < known.ask_at:
            return known.name
        lookup = self._lookups.join(uid, lambda: self._look_up(uid))
        if known is None or not self.is_known(uid):
            return await asyncio.shield(lookup)
        done, _ = await asyncio.wait({lookup}, timeout=PATIENCE_S)
        if done:
            return lookup.result()
        known.ask_at = clock.monotonic() + RETRY_S
        return known.name

    async def _look_up(self, uid: int) -> str | None:
        subordinate = self.is_subordinate(uid)
        threads = self._subordinate_thread if subordinate else self._threads
        name = await asyncio.get_running_loop().run_in_executor(threads, _name_of, uid)
        now = clock.monotonic()
        if name is not None:
            self._known[uid] = _Known(name, now, now + FRESH_S)
            return name
        if self.is_known(uid):
            log.warning("the name service no longer knows uid %d; the account stays valid for up to an hour", uid)
            known = self._known[uid]
            known.ask_at = now + RETRY_S
            return known.name
        self._known.pop(uid, None)
        self._missing.pop(uid, None)
        if len(self._missing) >= MAX_MISSING:
            del self._missing[next(iter(self._missing))]
        self._missing[uid] = now + (SUBORDINATE_RETRY_S if subordinate else RETRY_S)
        return None


def _ranges(path: Path) -> list[range]:
    """Return the ranges of a file such as /etc/subuid, joined where they touch; none if it is unreadable."""
    found = []
    with contextlib.suppress(OSError):
        for line in path.read_text(errors="replace").splitlines():
            parts = line.split(":")
            if len(parts) == 3 and parts[1].isdecimal() and parts[2].isdecimal():
                found.append(range(int(parts[1]), int(parts[1]) + int(parts[2])))
    joined: list[range] = []
    for each in sorted(found, key=lambda each: each.start):
        if joined and each.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, each.stop))
        else:
            joined.append(each)
    return joined


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
    except OSError as error:
        log.warning("the name service did not answer about uid %d: %s", uid, error)
        return None
