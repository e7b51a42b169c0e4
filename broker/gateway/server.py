"""The gateway: an ssh server that only forwards (`ssh -J`) to sessions that the controller resolves.

It runs as an account of its own, knows neither the registry nor Slurm, and holds no secret but its host key. It may die
and be replaced at any time. Open connections do not need the controller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Self, cast
from weakref import WeakValueDictionary

import asyncssh

from broker.gateway.admission import LoginThrottle
from broker.gateway.audit import ConnectionAudit
from broker.gateway.channel import FIRST_WINDOW_BYTES, Channel
from broker.gateway.connection import GatewayConnection
from broker.gateway.controller_client import ControllerClient
from broker.gateway.counters import Counters
from broker.gateway.endpoints import EndpointResolver
from broker.gateway.fair_reader import FairReader, PreAuthQueue, UserTimeSlice
from broker.gateway.guests import GuestRelays
from broker.gateway.identity import HostKeyAndCertificate
from broker.gateway.keys import CredentialsCache
from broker.gateway.listener import Listener, bind_socket
from broker.gateway.live_connections import LiveConnections
from broker.gateway.response_cache import ResponseCache, prune_periodically
from broker.gateway.settings import CIPHERS, KEX, MACS
from broker.gateway.usage import Usage
from broker.gateway.verifier import EndpointVerifier
from broker.schema.connections import ResolveAnswer
from broker.schema.login import GatewayKeys
from broker.ssh.keys import SIGNATURES

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from types import TracebackType

    from asyncssh import SSHKey
    from asyncssh.packet import SSHPacket, SSHPacketLogger
    from asyncssh.public_key import SSHOpenSSHCertificate

    from broker.gateway.settings import GatewaySettings

_STOPPING = "the gateway is stopping; connect again in a moment"

MAX_DEFERRED_PACKETS = 4096
"""Packets that wait for the end of a key exchange: a client may begin one and never finish it."""
MAX_PACKET_BYTES = 32768
"""Data in one packet: OpenSSH's largest."""

_log = logging.getLogger(__name__)


class Gateway:
    """The gateway as an async context manager. Users can connect during its block.

    At the end of the block it stops listening, waits for its connections, and closes the rest.
    """

    def __init__(
        self, settings: GatewaySettings, sock: socket.socket | None = None, usage: Usage | None = None
    ) -> None:
        """`sock`: bound, instead of one of its own at the settings' address. `usage`: shared with other workers."""
        self._settings = settings
        self._socket = sock
        self._live = LiveConnections[GatewayConnection]()
        self.counts = Counters()
        self._throttle = LoginThrottle(settings.max_startups, settings.penalty_exempt)
        self._usage = usage or Usage()
        self._guards = EndpointVerifier(answer_timeout=settings.answer_timeout)
        self._slices: WeakValueDictionary[str, UserTimeSlice] = WeakValueDictionary()
        self.counts.now["connections"] = lambda: len(self._live)
        self.counts.now["forwards"] = lambda: sum(each.forwards for each in self._live)
        self._stack = contextlib.AsyncExitStack()
        self._listener: Listener | None = None

    @property
    def port(self) -> int:
        """The TCP port it listens on."""
        if self._listener is None:
            raise RuntimeError("the gateway does not listen")
        return self._listener.port

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            controller = await stack.enter_async_context(ControllerClient(self._settings.api_socket, self.counts))
            identity = HostKeyAndCertificate(self._settings.host_key, controller.certificate)
            await identity.obtain_certificate()
            audit = await stack.enter_async_context(ConnectionAudit(controller.note, self._settings.name, self.counts))
            guests = await stack.enter_async_context(GuestRelays(controller.guests))
            self._logins = PreAuthQueue()
            self._options = await self._asyncssh_options(controller, identity, audit, guests)
            self._listener = Listener(self._bind(), self._throttle, self.counts, self._client)
            stack.push_async_callback(self._stop)
            renewal = asyncio.create_task(identity.keep_fresh(lambda: self._present(identity)))
            stack.push_async_callback(_cancel, renewal)
            stack.push_async_callback(_cancel, asyncio.create_task(prune_periodically(*self._memories)))
            self._stack = stack.pop_all()
        _log.info("listening on %s port %d", self._settings.listen_host, self.port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def retire(self) -> None:
        """Stop accepting connections, which other workers do now, and return when the last one has ended."""
        await self._close()
        await self._live.wait_empty()

    def _bind(self) -> socket.socket:
        return self._socket or bind_socket(self._settings.listen_host, self._settings.listen_port)

    def _client(self, source: str) -> FairReader:
        connection = _SSHConnection(asyncio.get_running_loop(), self._options)
        return FairReader(
            connection,
            source,
            throttle=self._throttle,
            logins=self._logins,
            slice_of=self._slice_of,
            counts=self.counts,
        )

    def _slice_of(self, user: str) -> UserTimeSlice:
        time_slice = self._slices.get(user)
        if time_slice is None:
            time_slice = self._slices[user] = UserTimeSlice()
        return time_slice

    async def _asyncssh_options(
        self,
        controller: ControllerClient,
        identity: HostKeyAndCertificate,
        audit: ConnectionAudit,
        guests: GuestRelays,
    ) -> asyncssh.SSHServerConnectionOptions:
        settings = self._settings
        known = settings.host_key.parent / "known"
        stale = settings.stale_seconds
        known_keys = ResponseCache(known / "keys", GatewayKeys, stale_seconds=stale)
        known_endpoints = ResponseCache(known / "endpoints", ResolveAnswer, stale_seconds=stale)
        self._memories = (known_keys, known_endpoints)
        keys = CredentialsCache(controller.keys, known_keys, fresh_seconds=settings.keys_fresh_seconds)
        endpoints = EndpointResolver(controller.resolve, known_endpoints, settings.domain)
        options: asyncssh.SSHServerConnectionOptions = await asyncssh.SSHServerConnectionOptions.construct(
            server_factory=lambda: GatewayConnection(
                settings,
                live=self._live,
                keys=keys,
                guards=self._guards,
                audit=audit,
                counts=self.counts,
                usage=self._usage,
                guests=guests,
                resolve=endpoints.resolve,
            ),
            server_host_keys=identity.host_keys,
            server_version="Berth",
            kex_algs=KEX,
            encryption_algs=CIPHERS,
            mac_algs=MACS,
            compression_algs=None,
            signature_algs=SIGNATURES,
            gss_host=None,
            x509_trusted_certs=None,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_pty=False,
            login_timeout=settings.login_timeout,
            keepalive_interval=settings.keepalive_interval,
            keepalive_count_max=settings.keepalive_count,
        )
        return options

    async def _present(self, identity: HostKeyAndCertificate) -> None:
        """Use the new certificate for new connections; open ones do not need it."""
        self._options = await asyncssh.SSHServerConnectionOptions.construct(
            self._options, server_host_keys=identity.host_keys
        )

    async def _close(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            await listener.close()
            _log.info("no longer listening; %d connections stand", len(self._live))

    async def _stop(self) -> None:
        await self._close()
        for connection in self._live:
            if not connection.forwards:
                connection.disconnect(_STOPPING)
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._live.wait_empty()
        except TimeoutError:
            _log.info("%d connections are ended now", len(self._live))
        finally:
            for connection in self._live:
                connection.disconnect(_STOPPING)
            self._guards.close()


class _SSHConnection(asyncssh.SSHServerConnection):
    """asyncssh's side of one connection."""

    def send_packet(self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None) -> None:
        """Send all packets but SSH_MSG_IGNORE, of which asyncssh puts one before every other packet.

        They hide the initialisation vectors of CBC ciphers (RFC 4251, section 9.3.1). The gateway's ciphers need none.
        While the client exchanges keys again, packets wait and the sessions are paused.
        """
        if pkttype == asyncssh.constants.MSG_IGNORE:
            return
        super().send_packet(pkttype, *args, handler=handler)
        if self._deferred_packets:
            if len(self._deferred_packets) > MAX_DEFERRED_PACKETS:
                self.abort()
            elif (client := self.get_owner()) is not None:
                cast("GatewayConnection", client).pause("key exchange")

    def _send_deferred_packets(self) -> None:
        super()._send_deferred_packets()
        if not self._deferred_packets and (client := self.get_owner()) is not None:
            cast("GatewayConnection", client).resume("key exchange")

    def create_tcp_channel(
        self,
        encoding: str | None = None,
        errors: str = "strict",
        window: int = FIRST_WINDOW_BYTES,
        max_pktsize: int = MAX_PACKET_BYTES,
    ) -> asyncssh.SSHTCPChannel[bytes]:
        """Create a channel with a bounded buffer."""
        return Channel(self, self._loop, encoding, errors, window, max_pktsize)

    async def _validate_openssh_certificate(self, username: str, cert: SSHOpenSSHCertificate) -> SSHKey | None:
        """Check the whole certificate. asyncssh checks only its authority, accepts a certificate without principals for
        all users, and accepts signatures with SHA-1.
        """
        client = cast("GatewayConnection", self.get_owner())
        if not await client.validate_certificate(username, cert):
            return None
        return await super()._validate_openssh_certificate(username, cert)

    def _process_direct_tcpip_open(self, packet: SSHPacket) -> tuple[Any, Any]:
        with _refuse_bad_names():
            return super()._process_direct_tcpip_open(packet)

    def _process_direct_streamlocal_at_openssh_dot_com_open(self, packet: SSHPacket) -> tuple[Any, Any]:
        with _refuse_bad_names():
            return super()._process_direct_streamlocal_at_openssh_dot_com_open(packet)


@contextlib.contextmanager
def _refuse_bad_names() -> Iterator[None]:
    """Refuse a channel whose names are no text: asyncssh would end the connection, with all that it carries."""
    try:
        yield
    except asyncssh.ProtocolError as error:
        words = "a name in this request is no text: use NAME or NAME.DOMAIN"
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, words) from error


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
