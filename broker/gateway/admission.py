"""Protect the gateway from floods of connections without a login: `LoginThrottle` limits how many may be pending, and
refuses addresses from which logins keep failing.

Both are features of sshd(8) that asyncssh lacks. The penalties and their constants are OpenSSH's (sshd_config(5),
PerSourcePenalties). The random early drop (MaxStartups) differs in one point: sshd refuses the new connection, so a
thousand idle connections keep all users out. The gateway drops the connection whose login makes no progress (ADR 43).
"""

from __future__ import annotations

import enum
import ipaddress
import random
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from broker.ssh.max_startups import MaxStartups

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MIN_ENFORCED_PENALTY_S = 15.0
"""Penalty from which on a source is refused; a smaller one is a user's mistake."""
MAX_PENALTY_S = 600.0
"""Largest penalty of a source."""
MAX_SOURCES = 65536
"""Sources with penalties; beyond that, the oldest one is removed."""
_LOOPBACKS: dict[int, Network] = {4: ipaddress.ip_network("127.0.0.0/8"), 6: ipaddress.ip_network("::1")}
IPV6_PREFIX = 64
"""Bits of an IPv6 address that count: a client with one address has all of its network. sshd's PerSourceNetBlockSize
counts all 128 unless it is set; of IPv4 both count all 32."""
LOOPBACK = "127.0.0.1"
"""The source of all connections from this machine, which has sixteen million loopback addresses."""

GREETING_BYTES = 256
"""Bytes above which a login counts as begun: the client's version and a part of the key exchange."""
NEWCOMER_SHARE = 0.25
"""Share of the pending logins that is reserved for clients that have not begun their login."""
STALL_S = 5.0
"""Time without data after which the random early drop may select a connection."""


class Failure(enum.Enum):
    """The reasons why a connection ends without a login, each with its penalty for the source in seconds."""

    NO_ATTEMPT = 1.0
    """It left before it tried: OpenSSH's `noauth`."""
    NO_LOGIN = 5.0
    """It tried keys, and none was right: `authfail`."""
    TOO_SLOW = 10.0
    """It used up the time for a login: `grace-exceeded`."""
    ABUSE = 90.0
    """It sent what no login consists of, in length or in amount; `crash`, which such things mean to do."""


class PendingLogin(Protocol):
    """A connection without a login."""

    source: str

    def has_unread(self) -> bool:
        """Whether it has said something that we have not come to read yet."""
        ...

    def drop(self) -> None:
        """End it."""
        ...


class LoginThrottle:
    """The connections before login, and the sources that may not try."""

    def __init__(
        self,
        max_startups: MaxStartups,
        exempt: Iterable[Network] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._max_startups = max_startups
        self._exempt = tuple(exempt)
        self._clock = clock
        self._chance = chance
        self._arrived: OrderedDict[PendingLogin, float] = OrderedDict()
        """Those who have not begun in earnest, and since when; the first to come is first."""
        self._begun: OrderedDict[PendingLogin, float] = OrderedDict()
        """Those who have, and when they were heard last; the one not heard for the longest time is first."""
        self._until: OrderedDict[str, float] = OrderedDict()
        self._enforced: set[str] = set()
        self._inside: Counter[str] = Counter()

    @property
    def waiting(self) -> int:
        """The number of pending logins."""
        return len(self._arrived) + len(self._begun)

    def refuses(self, source: str) -> float:
        """Return the seconds for which `source` is still refused; 0 if it is not."""
        if source not in self._enforced:
            return 0
        left = self._until[source] - self._clock()
        if left <= 0:
            self._forgive(source)
            return 0
        # Many users may share one address with one broken script.
        return 0 if self._inside[source] else left

    def enter(self, arrival: PendingLogin) -> None:
        """Add a pending login. If there are too many, drop one of them; it may be this one."""
        share = self._max_startups.drop_probability(self.waiting)
        self._arrived[arrival] = self._clock()
        if share < 1 and self._chance() >= share:
            return
        victim = self._find_stalled() if share < 1 else self._least()
        if victim is not None:
            self._forget(victim)
            victim.drop()

    def record_data(self, client: PendingLogin, received: int) -> None:
        """Record that the pending `client` has sent data, `received` bytes in total."""
        if received > GREETING_BYTES:
            self._arrived.pop(client, None)
            self._begun[client] = self._clock()
            self._begun.move_to_end(client)

    def leave(self, client: PendingLogin, failure: Failure | None = None) -> None:
        """Remove a pending login that succeeded, or that ended with `failure` or by a fault of the gateway."""
        self._forget(client)
        if failure is not None:
            self._punish(client.source, failure.value)

    def add_connection(self, source: str) -> None:
        """Count a logged-in connection from `source`."""
        self._inside[source] += 1

    def remove_connection(self, source: str) -> None:
        """Count a logged-in connection from `source` less."""
        self._inside[source] -= 1
        if not self._inside[source]:
            del self._inside[source]

    def _find_stalled(self) -> PendingLogin | None:
        now = self._clock()
        for group in (self._arrived, self._begun):
            client = self._first(group)
            if client is not None and now - group[client] > STALL_S:
                return client
        return None

    def _least(self) -> PendingLogin | None:
        """Return the login to drop when the limit is reached."""
        if len(self._arrived) > NEWCOMER_SHARE * self._max_startups.full:
            return self._first(self._arrived) or self._first(self._begun)
        return self._first(self._begun) or self._first(self._arrived)

    def _first(self, group: OrderedDict[PendingLogin, float]) -> PendingLogin | None:
        """Return the first client without unread data; the gateway may have been too busy to read the others' data."""
        for _ in range(len(group)):
            client = next(iter(group))
            if not client.has_unread():
                return client
            group[client] = self._clock()
            group.move_to_end(client)
        return None

    def _punish(self, source: str, seconds: float) -> None:
        if any(_includes(network, source) for network in self._exempt):
            return
        now = self._clock()
        if self._until.get(source, now) <= now:
            self._forgive(source)
        until = self._until[source] = min(self._until.get(source, now) + seconds, now + MAX_PENALTY_S)
        if until - now >= MIN_ENFORCED_PENALTY_S:
            self._enforced.add(source)
        while len(self._until) > MAX_SOURCES:
            self._forgive(next(iter(self._until)))

    def _forget(self, client: PendingLogin) -> None:
        self._arrived.pop(client, None)
        self._begun.pop(client, None)

    def _forgive(self, source: str) -> None:
        self._until.pop(source, None)
        self._enforced.discard(source)


def source_of(address: str) -> str:
    """Return the source of an address: the IPv4 address, the IPv6 network as ADDRESS/64, or LOOPBACK."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return LOOPBACK
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((ip, IPV6_PREFIX), strict=False))
    return str(ip)


def _includes(network: Network, source: str) -> bool:
    """Whether the network contains an address of the source."""
    of = _LOOPBACKS[network.version] if source == LOOPBACK else ipaddress.ip_network(source)
    return of.version == network.version and of.overlaps(network)
