"""Verify that a forward has reached the session's own sshd, before a byte of the client is sent.

A port may belong to somebody else by the time that it is connected to: the job has ended, and another process of the
node has taken it. What the client would say first is not secret, but it is nobody else's business, and what comes
next is only as safe as the client is careful. So the gateway asks for itself. It keeps a second connection to the
endpoint, the *guard*, on which keys have been exchanged and the host key is the one that the job announced; and once
the forward is connected, it has the guard answer. The answer shows that the sshd which proved itself lives still, and
with it the process that listens: it was there that the forward arrived (ADR 26).

A guard stands before its login and never gets beyond, since the gateway has nothing to log in with. sshd ends it after
its LoginGraceTime, and the next forward has a new one made.

Behind the endpoint may be a program that means harm: its owner may announce any. So a guard reads in small pieces and
no more than it has use for (guard_inlet). One owner has few guards. The gateway does not ask a server again at once
that sends too much, or whose guards end as soon as they stand (ADR 102).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import asyncssh
from asyncssh.constants import MSG_KEXINIT

from broker.errors import BerthError
from broker.gateway.audit import log_line
from broker.gateway.guard_inlet import GuardInlet
from broker.gateway.inlet import PreAuthQueue
from broker.gateway.settings import CIPHERS, KEX, MACS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from asyncssh.packet import SSHPacket

    from broker.schema.connections import ResolveAnswer

LIFE_S = 60.0
"""Seconds for which a guard stands at most. The sshd of a session ends it after 30."""
MOST, MOST_OF_OWNER = 512, 16
"""Guards that stand at once, and those to the sessions of one owner; one of the owner's own makes room for another. A
forward to one session more than an owner may have guards for waits until one of them has answered."""

SHORT_LIFE_S = 1.0
"""Seconds that a guard lives at least, or the next one waits: a key exchange costs the gateway some milliseconds."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.02, 0.1
"""Seconds from the end of such a guard to the next one: doubled each time, from the first to the longest."""
FIRST_BAN_S, LONGEST_BAN_S = 2.0, 60.0
"""Seconds for which forwards to a server that has sent too much are refused: doubled each time."""
MEMORY_S = 300.0
"""Seconds without another short guard after which the earlier ones are forgotten."""
MOST_REMEMBERED = 4096
"""Endpoints that had such guards; the one that has not had any for the longest time is forgotten."""

SERVICE_REQUEST, SERVICE_ACCEPT = 5, 6
"""What a guard says, and sshd's answer: a message that may be repeated before a login (RFC 4253, section 10), and that
sshd does not log."""
USERAUTH = (12).to_bytes(4, "big") + b"ssh-userauth"

_log = logging.getLogger(__name__)


class NotReachedError(BerthError):
    """The session's endpoint is known, but there is no connection to it."""

    status = 502


class EndpointUnreachableError(NotReachedError):
    """Nothing answers at the session's endpoint."""

    reason = "unreached"


class HostKeyMismatchError(NotReachedError):
    """Another host key answers at the session's endpoint."""

    reason = "impostor"


class FloodError(ConnectionError):
    """The server has sent more than any sshd does, and is left alone for a while."""


class EndpointAddress(NamedTuple):
    """The identity that a guard proves: one generation of a session, its address and its host key."""

    session_id: str
    generation: str
    host: str
    port: int
    fingerprint: str
    owner: str

    @classmethod
    def of(cls, session: ResolveAnswer) -> EndpointAddress:
        return cls(
            session.session_id, session.generation, session.host, session.port, session.fingerprint, session.owner
        )


@dataclass(slots=True)
class _Past:
    """The last ends of one endpoint's guards."""

    short: int = 0
    """Number of guards in a row that lived for a moment only."""
    floods: int = 0
    next_at: float = 0.0
    """Time from which another guard may begin."""


class EndpointVerifier:
    """The present guards, one for each endpoint, which all its forwards share."""

    def __init__(self, *, answer_timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`answer_timeout`: seconds for a guard's key exchange, for each answer of one, and for a free place."""
        self.answer_timeout = answer_timeout
        self._clock = clock
        self._guards: dict[EndpointAddress, _Guard] = {}
        self._past: OrderedDict[EndpointAddress, _Past] = OrderedDict()
        self._turn = PreAuthQueue()
        self._asked: Counter[EndpointAddress] = Counter()
        """Forwards that wait for the answer of an endpoint's guard. Such a guard makes no room for another."""
        self._asked_of: Counter[str] = Counter()
        """The number of these endpoints, by owner."""
        self._freed: dict[str, asyncio.Event] = {}
        """By owner, where forwards wait: set when there is one endpoint less."""

    def __len__(self) -> int:
        return len(self._guards)

    def prepare(self, endpoint: EndpointAddress) -> _Guard | None:
        """Have a guard made while the forward is being connected, unless one of the owner's would have to make room.

        FloodError if the server has sent too much lately.
        """
        if endpoint in self._guards or sum(each.owner == endpoint.owner for each in self._guards) < MOST_OF_OWNER:
            return self._guard(endpoint)
        return None

    async def prove(self, endpoint: EndpointAddress) -> None:
        """Return once the session's sshd has answered to something that it was asked after this call.

        HostKeyMismatchError if what listens there has another host key; OSError (TimeoutError is one) if nobody
        answers, or nobody who speaks ssh.
        """
        async with self._place(endpoint):
            stood = endpoint in self._guards
            if await self._guard(endpoint).answers(self.answer_timeout):
                return
            # Its sshd may have ended the guard that stood. If a new guard gets no answer either, the sshd is gone.
            if not stood or not await self._guard(endpoint).answers(self.answer_timeout):
                raise ConnectionResetError("the session's sshd is gone")

    def _guard(self, endpoint: EndpointAddress) -> _Guard:
        """Return the endpoint's guard, made if there is none. FloodError as for `prepare`."""
        guard = self._guards.get(endpoint)
        if guard is None:
            past = self._past.get(endpoint, _Past())
            wait = max(past.next_at - self._clock(), 0.0)
            if past.floods and wait:
                raise FloodError(f"sends too much, left alone for {wait:.0f} s")
            began_at = self._clock() + wait
            guard = self._guards[endpoint] = _Guard(
                endpoint, self._turn, self._forget, began_at, wait, self.answer_timeout
            )
            self._make_room(endpoint.owner)
        return guard

    @contextlib.asynccontextmanager
    async def _place(self, endpoint: EndpointAddress) -> AsyncIterator[None]:
        """Let no more endpoints of one owner be asked at once than the owner may have guards. TimeoutError if none of
        these has answered for too long.
        """
        owner = endpoint.owner
        async with asyncio.timeout(self.answer_timeout):
            while not self._asked[endpoint] and self._asked_of[owner] >= MOST_OF_OWNER:
                await self._freed.setdefault(owner, asyncio.Event()).wait()
        if not self._asked[endpoint]:
            self._asked_of[owner] += 1
        self._asked[endpoint] += 1
        try:
            yield
        finally:
            self._asked[endpoint] -= 1
            if not self._asked[endpoint]:
                del self._asked[endpoint]
                self._asked_of[owner] -= 1
                if not self._asked_of[owner]:
                    del self._asked_of[owner]
                if (freed := self._freed.pop(owner, None)) is not None:
                    freed.set()

    def close(self) -> None:
        """Dismiss all."""
        for guard in list(self._guards.values()):
            guard.dismiss()

    def _make_room(self, owner: str) -> None:
        """Dismiss a guard if there are too many: the oldest that no forward waits for, of the owner's or of whose there
        are most.

        One that is dismissed is made anew when the next forward needs it.
        """
        of = Counter(endpoint.owner for endpoint in self._guards)
        if of[owner] <= MOST_OF_OWNER:
            if len(self._guards) <= MOST:
                return
            if of[owner] == 1:
                owner = of.most_common(1)[0][0]
        own = [endpoint for endpoint in self._guards if endpoint.owner == owner]
        self._guards[min(own, key=lambda endpoint: self._asked[endpoint] > 0)].dismiss()

    def _forget(self, guard: _Guard) -> None:
        if self._guards.get(guard.endpoint) is not guard:
            return
        del self._guards[guard.endpoint]
        now = self._clock()
        if now - guard.began_at >= SHORT_LIFE_S and not guard.flooded:
            self._past.pop(guard.endpoint, None)
            return
        past = self._past.pop(guard.endpoint, None)
        if past is None or now - past.next_at > MEMORY_S:
            past = _Past()
        if guard.flooded:
            wait = min(FIRST_BAN_S * 2**past.floods, LONGEST_BAN_S)
            past.floods += 1
        else:
            wait = min(FIRST_WAIT_S * 2**past.short, LONGEST_WAIT_S)
            past.short += 1
        past.next_at = now + wait
        self._past[guard.endpoint] = past
        while len(self._past) > MOST_REMEMBERED:
            self._past.popitem(last=False)


class _Guard(asyncssh.SSHClient):
    """One guard connection, from its making to its end.

    asyncssh calls the methods that have no underscore before them.
    """

    def __init__(  # noqa: PLR0917 - all that bounds one
        self,
        endpoint: EndpointAddress,
        turn: PreAuthQueue,
        gone: Callable[[_Guard], None],
        began_at: float,
        wait: float,
        exchange_timeout: float,
    ) -> None:
        """`turn`: that all guards have together. `gone` is called when it can vouch for nothing any more.

        It begins after `wait` seconds, at `began_at`, and has `exchange_timeout` seconds for its key exchange.
        """
        self.endpoint = endpoint
        self.flooded = False
        """Whether its server has sent too much."""
        self.began_at = began_at
        self._turn = turn
        self._wait = wait
        self._exchange_timeout = exchange_timeout
        self._gone = gone
        self._proved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked: deque[asyncio.Future[bool]] = deque()
        self._failure: Exception = ConnectionResetError("the session's sshd is gone")
        self._key_exchanges = 0
        self._ended = False
        self._standing = asyncio.create_task(self._stand())

    async def answers(self, seconds: float) -> bool:
        """Whether the sshd that has proved itself lives: False when it has gone meanwhile. Raises as Guards.prove.

        TimeoutError if it does not answer within `seconds`.
        """
        await asyncio.shield(self._proved)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._ended:
            return False
        self._asked.append(answer)
        self._inlet.allow_answer()
        self._conn.send_packet(SERVICE_REQUEST, USERAUTH)
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            self.dismiss()
            raise

    def dismiss(self) -> None:
        """End the guard. Forwards that wait for its answer get False."""
        self._end()
        self._standing.cancel()

    async def _stand(self) -> None:
        try:
            await asyncio.sleep(self._wait)
            async with asyncio.timeout(self._exchange_timeout) as self._limit:
                connection = await asyncssh.connect(
                    self.endpoint.host,
                    self.endpoint.port,
                    tunnel=self,
                    client_factory=lambda: self,
                    username=self.endpoint.owner,
                    client_version="Berth",
                    known_hosts=([], [], []),
                    # Else asyncssh looks for them in the home, and before Python 3.14 fails if it may not.
                    x509_trusted_certs=None,
                    x509_trusted_cert_paths=[],
                    server_host_key_algs=["ssh-ed25519"],
                    kex_algs=KEX,
                    encryption_algs=CIPHERS,
                    mac_algs=MACS,
                    compression_algs=None,
                    preferred_auth=["publickey"],
                    client_keys=None,
                    agent_path=None,
                    gss_host=None,
                    config=None,
                    login_timeout=0,
                )
                connection.abort()  # no session's sshd takes a login without a key
        except asyncssh.HostKeyNotVerifiable as error:
            self._failure = HostKeyMismatchError("another host key than the session's")
            self._failure.__cause__ = error
        except OSError as error:
            self._failure = error
        except Exception as error:  # noqa: BLE001 - what a server sends chooses which, in asyncssh and what it uses
            self._failure = ConnectionResetError(str(error))
        finally:
            self._end()

    def _end(self) -> None:
        """Forget the guard in the same turn of the loop in which it ends: no forward may find one that has ended."""
        self._ended = True
        self._gone(self)
        if not self._proved.done():
            self._proved.set_exception(self._failure)
            self._proved.exception()  # perhaps no forward waits for it
        for answer in self._asked:
            if not answer.done():
                answer.set_result(False)

    # asyncssh takes it for the tunnel to the server, and has the connection made here.

    async def create_connection(
        self, factory: Callable[[], asyncssh.SSHClientConnection], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncssh.SSHClientConnection]:
        """Connect to the server, with what bounds it in front of asyncssh's connection."""
        connection = factory()
        self._inlet = GuardInlet(connection, self._turn, self._flood)
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: self._inlet, host, port)
        return transport, connection

    def _flood(self) -> None:
        self.flooded = True
        self._failure = FloodError("sends too much")
        at, inlet = f"{self.endpoint.host}:{self.endpoint.port}", self._inlet
        session, generation = self.endpoint.session_id, self.endpoint.generation
        fields = {"session": session, "generation": generation, "at": at}
        _log.warning("%s", log_line("guard flooded", **fields, bytes=inlet.bytes, packets=inlet.packets))
        self.dismiss()

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn
        process = conn.process_packet

        # asyncssh takes an answer to a request that it has not made for an error, and exchanges keys as often as asked.
        def process_packet(pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
            if not self._inlet.count_packet():
                return True
            if pkttype == MSG_KEXINIT:
                self._key_exchanges += 1
                if self._key_exchanges > 1:
                    self._inlet.refuse()
                    return True
            if pkttype != SERVICE_ACCEPT or not self._asked:
                return process(pkttype, pktid, packet)
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_result(True)
            return True

        conn.process_packet = process_packet  # type: ignore[method-assign]  # as said above

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        return key.get_fingerprint() == self.endpoint.fingerprint

    async def public_key_auth_requested(self) -> None:
        """Keys are exchanged, and sshd waits for a login that never comes."""
        self._limit.reschedule(asyncio.get_running_loop().time() + LIFE_S)
        if not self._proved.done():
            self._proved.set_result(None)
        await asyncio.Event().wait()
