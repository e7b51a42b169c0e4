"""Limit the logins that are not complete, and refuse sources from which logins keep failing.

Both are features of sshd(8) that asyncssh lacks. The penalties are OpenSSH's, constants and all (sshd_config(5),
PerSourcePenalties), and so is the random early drop (MaxStartups), except for whom it strikes. sshd turns away the one
who has just arrived, so that a thousand idle connections keep everybody out. Here the one goes whose login makes no
progress (ADR 43).
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
"""Seconds of penalty that a source must have gathered before it is refused; less than that is a slip of the hand."""
MAX_PENALTY_S = 600.0
"""Seconds of penalty that a source can gather at most."""
MAX_SOURCES = 65536
"""Sources that are remembered; when there are more, the one known for the longest time is forgotten."""
_LOOPBACKS: dict[int, Network] = {4: ipaddress.ip_network("127.0.0.0/8"), 6: ipaddress.ip_network("::1")}
IPV6_PREFIX = 64
"""Bits of an IPv6 address that count: a client with one address has all of its network. sshd's PerSourceNetBlockSize
counts all 128 unless it is set; of IPv4 both count all 32."""
LOOPBACK = "127.0.0.1"
"""The one source that this machine is, by whichever of its sixteen million loopback addresses it comes."""

GREETING_BYTES = 256
"""Bytes that whoever has sent more has begun in earnest: its version and something of a key exchange."""
NEWCOMER_SHARE = 0.25
"""The share of the places that those may keep who have not, however many others there are."""
STALL_S = 5.0
"""Seconds without a word after which the random early drop may strike."""


class Failure(enum.Enum):
    """The ways in which a connection ends without a login, each with its penalty for the source in seconds."""

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

    def unread(self) -> bool:
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
        """How many have not logged in yet."""
        return len(self._arrived) + len(self._begun)

    def refuses(self, source: str) -> float:
        """For how many seconds `source` may not even begin; 0 if it may."""
        if source not in self._enforced:
            return 0
        left = self._until[source] - self._clock()
        if left <= 0:
            self._forgive(source)
            return 0
        # A whole office may share one address with somebody's broken script.
        return 0 if self._inside[source] else left

    def enter(self, arrival: PendingLogin) -> None:
        """Begin a login. If there are too many, one of them is dropped; it may be this one."""
        share = self._max_startups.drop_probability(self.waiting)
        self._arrived[arrival] = self._clock()
        if share < 1 and self._chance() >= share:
            return
        victim = self._stalled() if share < 1 else self._least()
        if victim is not None:
            self._forget(victim)
            victim.drop()

    def heard(self, client: PendingLogin, received: int) -> None:
        """`client`, which waits, has said something, and so many bytes in all."""
        if received > GREETING_BYTES:
            self._arrived.pop(client, None)
            self._begun[client] = self._clock()
            self._begun.move_to_end(client)

    def leave(self, client: PendingLogin, failure: Failure | None = None) -> None:
        """The login of `client` has ended, in `failure` or well; or it was our own fault that it did not."""
        self._forget(client)
        if failure is not None:
            self._punish(client.source, failure.value)

    def inside(self, source: str) -> None:
        """Somebody from there has logged in."""
        self._inside[source] += 1

    def outside(self, source: str) -> None:
        """Somebody from there who had logged in has left."""
        self._inside[source] -= 1
        if not self._inside[source]:
            del self._inside[source]

    def _stalled(self) -> PendingLogin | None:
        now = self._clock()
        for group in (self._arrived, self._begun):
            client = self._first(group)
            if client is not None and now - group[client] > STALL_S:
                return client
        return None

    def _least(self) -> PendingLogin | None:
        """Whom to part with when one must go."""
        if len(self._arrived) > NEWCOMER_SHARE * self._max_startups.full:
            return self._first(self._arrived) or self._first(self._begun)
        return self._first(self._begun) or self._first(self._arrived)

    def _first(self, group: OrderedDict[PendingLogin, float]) -> PendingLogin | None:
        """The first whose silence is its own: it is not if we have been too busy to listen."""
        for _ in range(len(group)):
            client = next(iter(group))
            if not client.unread():
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
    """Return what counts as one source: an IPv4 address, an IPv6 network as ADDRESS/64, or this machine."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return LOOPBACK
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((ip, IPV6_PREFIX), strict=False))
    return str(ip)


def _includes(network: Network, source: str) -> bool:
    """Whether something of the source lies in that network, such as one address of an IPv6 source."""
    of = _LOOPBACKS[network.version] if source == LOOPBACK else ipaddress.ip_network(source)
    return of.version == network.version and of.overlaps(network)
