"""Proof that a forward has reached the session's own sshd, before a byte of the client's goes there.

A port may belong to somebody else by the time that it is connected to: the job has ended, and another process of the
node has taken it. What the client would say first is not secret, but it is nobody else's business, and what comes
next is only as safe as the client is careful. So the gateway asks for itself. It keeps a second connection to the
endpoint, the *guard*, on which keys have been exchanged and the host key is the one that the job announced; and once
the forward is connected, it has the guard answer. The answer shows that the sshd which proved itself lives still, and
with it the process that listens: it was there that the forward arrived (ADR 0094).

A guard stands before its login and never gets beyond, since the gateway has nothing to log in with. sshd ends it after
its LoginGraceTime, and the next forward has a new one made.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import asyncssh

from broker.errors import BerthError
from broker.gateway.settings import CIPHERS, KEX, MACS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncssh.packet import SSHPacket

    from broker.schema import ResolveAnswer

PATIENCE = 10.0
"""Seconds for a guard's key exchange, and for an answer of one that stands."""
MOST = 512
"""Guards that stand at once; the oldest makes room for another."""

SERVICE_REQUEST, SERVICE_ACCEPT = 5, 6
"""What a guard says, and sshd's answer: a message that may be repeated before a login (RFC 4253, section 10), and that
sshd does not log."""
USERAUTH = (12).to_bytes(4, "big") + b"ssh-userauth"


class NotReachedError(BerthError):
    """The controller has said where the session is, and it could not be connected to."""

    status = 502


class UnreachedError(NotReachedError):
    """Nobody answers where the session should be."""

    reason = "unreached"


class ImpostorError(NotReachedError):
    """Somebody else answers where the session should be."""

    reason = "impostor"


class Endpoint(NamedTuple):
    """What a guard vouches for: one generation of a session, where it listens, and its host key."""

    session_id: str
    generation: str
    host: str
    port: int
    fingerprint: str
    owner: str

    @classmethod
    def of(cls, session: ResolveAnswer) -> Endpoint:
        return cls(
            session.session_id, session.generation, session.host, session.port, session.fingerprint, session.owner
        )


class Guards:
    """The guards that stand, one an endpoint, for whichever forwards need them."""

    def __init__(self) -> None:
        self._guards: dict[Endpoint, _Guard] = {}

    def __len__(self) -> int:
        return len(self._guards)

    def prepare(self, endpoint: Endpoint) -> _Guard:
        """The endpoint's guard, made if there is none: worth asking for while the forward is being connected."""
        guard = self._guards.get(endpoint)
        if guard is None:
            guard = self._guards[endpoint] = _Guard(endpoint, self._forget)
            if len(self._guards) > MOST:
                next(iter(self._guards.values())).dismiss()
        return guard

    async def prove(self, endpoint: Endpoint) -> None:
        """Return once the session's sshd has answered to something that it was asked after this call.

        ImpostorError if what listens there has another host key; OSError (TimeoutError is one) if nobody answers, or
        nobody who speaks ssh.
        """
        stood = endpoint in self._guards
        if await self.prepare(endpoint).answers():
            return
        # The one that stood may have been given up by its sshd; if a new one does not answer, nobody is there.
        if not stood or not await self.prepare(endpoint).answers():
            raise ConnectionResetError("the session's sshd is gone")

    def close(self) -> None:
        """Dismiss all."""
        for guard in list(self._guards.values()):
            guard.dismiss()

    def _forget(self, guard: _Guard) -> None:
        if self._guards.get(guard.endpoint) is guard:
            del self._guards[guard.endpoint]


class _Guard(asyncssh.SSHClient):
    """One connection, from its making to its end. asyncssh calls the methods that have no underscore before them."""

    def __init__(self, endpoint: Endpoint, gone: Callable[[_Guard], None]) -> None:
        """`gone` is called when it can vouch for nothing any more."""
        self.endpoint = endpoint
        self._gone = gone
        self._proved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked: deque[asyncio.Future[bool]] = deque()
        self._standing = asyncio.create_task(self._stand())

    async def answers(self) -> bool:
        """Whether the sshd that has proved itself lives: False when it has gone meanwhile. Raises as Guards.prove."""
        await asyncio.shield(self._proved)
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._standing.done():
            return False
        self._asked.append(answer)
        self._conn.send_packet(SERVICE_REQUEST, USERAUTH)
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            self.dismiss()
            raise

    def dismiss(self) -> None:
        """End it; whoever waits for its answer is told that it is gone."""
        self._gone(self)
        self._standing.cancel()

    async def _stand(self) -> None:
        failure: Exception = ConnectionResetError("the session's sshd is gone")
        try:
            async with asyncio.timeout(PATIENCE) as self._limit:
                await asyncssh.connect(
                    self.endpoint.host,
                    self.endpoint.port,
                    client_factory=lambda: self,
                    username=self.endpoint.owner,
                    client_version="Berth",
                    known_hosts=b"",
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
        except asyncssh.HostKeyNotVerifiable as error:
            failure = ImpostorError("another host key than the session's")
            failure.__cause__ = error
        except (asyncssh.Error, OSError) as error:
            failure = error if isinstance(error, OSError) else ConnectionResetError(str(error))
        finally:
            self._gone(self)
            if not self._proved.done():
                self._proved.set_exception(failure)
                self._proved.exception()  # perhaps nobody waits for it
            for answer in self._asked:
                if not answer.done():
                    answer.set_result(False)

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self._conn = conn
        process = conn.process_packet

        # asyncssh takes an answer to a request that it has not made for an error.
        def process_packet(pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
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
        self._limit.reschedule(None)
        if not self._proved.done():
            self._proved.set_result(None)
        await asyncio.Event().wait()
