"""A guard: an ssh connection to a session's endpoint that shows whose sshd answers there.

Keys are exchanged on it, and the host key is the one that the job announced. A guard stays before its login, since the
gateway has nothing to log in with. The session's sshd ends it after its LoginGraceTime.

The session's owner may announce any program as endpoint. So a guard reads in small pieces, and no more than it needs
(guard_inlet).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import asyncssh
from asyncssh.constants import MSG_KEXINIT

from broker.errors import BerthError
from broker.gateway.audit import log_line
from broker.gateway.guard_inlet import GuardInlet
from broker.gateway.settings import CIPHERS, KEX, MACS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncssh.packet import SSHPacket

    from broker.gateway.fair_reader import PreAuthQueue
    from broker.schema.connections import ResolveAnswer

LIFE_S = 60.0
"""Seconds for which a guard stands at most. The sshd of a session ends it after 30."""

SERVICE_REQUEST, SERVICE_ACCEPT = 5, 6
"""The message of a guard, and sshd's answer.

The message may be repeated before a login (RFC 4253, section 10), and sshd does not log it.
"""
USERAUTH = (12).to_bytes(4, "big") + b"ssh-userauth"

_log = logging.getLogger(__name__)


class NotReachedError(BerthError):
    """The session's endpoint is known, but there is no connection to it."""

    status = 502


class EndpointUnreachableError(NotReachedError):
    """No server answers at the session's endpoint."""

    reason = "unreached"


class HostKeyMismatchError(NotReachedError):
    """Another host key answers at the session's endpoint."""

    reason = "impostor"


class FloodError(ConnectionError):
    """The server has sent more than any sshd does. The gateway does not contact it for a while."""


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


class Guard(asyncssh.SSHClient):
    """One guard connection, from its creation to its end.

    asyncssh calls the methods that have no underscore before them.
    """

    def __init__(  # noqa: PLR0917 - all that bounds one
        self,
        endpoint: EndpointAddress,
        queue: PreAuthQueue,
        gone: Callable[[Guard], None],
        began_at: float,
        wait: float,
        exchange_timeout: float,
    ) -> None:
        """`queue`: the one that all guards share. `gone` is called when it can vouch for nothing any more.

        It begins after `wait` seconds, at `began_at`, and has `exchange_timeout` seconds for its key exchange.
        """
        self.endpoint = endpoint
        self.flooded = False
        """Whether its server has sent too much."""
        self.began_at = began_at
        self._queue = queue
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
        """Whether the sshd that proved its host key still runs. Raises as `EndpointVerifier.prove`.

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
        """Forget the guard in the iteration of the loop in which it ends: no forward may find one that has ended."""
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
        """Connect to the server, with a GuardInlet in front of asyncssh's connection."""
        connection = factory()
        self._inlet = GuardInlet(connection, self._queue, self._flood)
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

        conn.process_packet = process_packet  # type: ignore[method-assign]  # as explained above

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:  # noqa: ARG002
        return key.get_fingerprint() == self.endpoint.fingerprint

    async def public_key_auth_requested(self) -> None:
        """Keys are exchanged, and sshd waits for a login that never comes."""
        self._limit.reschedule(asyncio.get_running_loop().time() + LIFE_S)
        if not self._proved.done():
            self._proved.set_result(None)
        await asyncio.Event().wait()
