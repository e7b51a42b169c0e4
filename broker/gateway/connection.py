"""One client of the gateway: its identity, and its forwards to sessions.

asyncssh refuses everything that a server object does not explicitly allow. This one allows public-key login and
`connection_requested`. It refuses ssh sessions explicitly, to explain how to use the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import asyncssh

from broker.errors import BerthError, RefusedError
from broker.gateway.admission import Failure
from broker.gateway.audit import ClientIdentity, log_line
from broker.gateway.guard import (
    EndpointAddress,
    EndpointUnreachableError,
    FloodError,
    HostKeyMismatchError,
    NotReachedError,
)
from broker.gateway.relay import PauseReason, Relay
from broker.gateway.usage import Allowance, Resource
from broker.schema.connections import GuestConnection
from broker.service.log_limit import ALWAYS
from broker.ssh.certificates import UserCertificate
from broker.ssh.host_names import GatewayLogin
from broker.ssh.keys import SIGNATURES, fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from broker.gateway.audit import ConnectionAudit
    from broker.gateway.counters import Counters
    from broker.gateway.guests import GuestRelays
    from broker.gateway.keys import AuthorizedCredentials, CredentialsCache
    from broker.gateway.live_connections import LiveConnections
    from broker.gateway.settings import GatewaySettings
    from broker.gateway.usage import Usage
    from broker.gateway.verifier import EndpointVerifier
    from broker.schema.connections import ResolveAnswer

SSH_PORT = 22
"""The port of every session, as `ssh -J gateway dev.berth` requests it; the sshd itself listens on another port."""

MAX_TEXT_CHARS = 400
"""Characters of a message to the user's terminal."""

_log = logging.getLogger(__name__)


class GatewayConnection(asyncssh.SSHServer):
    """asyncssh calls its methods in the order of the protocol: connect, log in, forward any number of times, end."""

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        live: LiveConnections[GatewayConnection],
        keys: CredentialsCache,
        guards: EndpointVerifier,
        audit: ConnectionAudit,
        counts: Counters,
        usage: Usage,
        guests: GuestRelays,
        resolve: Callable[[str, str], Awaitable[ResolveAnswer]],
    ) -> None:
        self._settings = settings
        self._live = live
        self._keys = keys
        self._guards = guards
        self._audit = audit
        self._counts = counts
        self._usage = usage
        self._guests = guests
        self._resolve = resolve
        self._identity: ClientIdentity | None = None
        self._proved: ClientIdentity | None = None
        self._counted = False
        """Whether the connection is in its user's count."""
        self.on_login: Callable[[], None] = lambda: None
        """Called once, when the user has logged in."""
        self._began = time.monotonic()
        self._tries = 0
        self._warned = False
        self._our_fault = False
        self._login = GatewayLogin("", "")
        """The user and the session that the last offered key is for."""
        self._notice = ""
        """The state of that session, for its banner."""
        self._relays: set[Relay] = set()
        self._opening: set[asyncio.Task[Any]] = set()
        """The tasks in which asyncssh opens forwards; it leaves them alone when the connection ends."""
        self._paused: set[PauseReason] = set()
        self._peer = ""

    # Life

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn
        host, port = conn.get_extra_info("peername")[:2]
        self._peer = f"{host}:{port}"
        self._live.add(self)
        conn.send_userauth_success = self._tell_first(conn)  # type: ignore[method-assign]  # a step of the login
        conn.validate_public_key = self._for_user(conn)  # type: ignore[method-assign]  # another one, before that

    def connection_lost(self, exc: Exception | None) -> None:
        self._live.remove(self, self._identity.user if self._identity else None)
        for task in self._opening:
            task.cancel()  # a client that has disconnected waits for no session
        if self._identity is not None and self._counted:
            self._allowance(self._identity.user, Resource.CONNECTIONS).give_back()
        if self._identity is None:
            _log.debug("%s", log_line("no login", peer=self._peer, end=exc or "closed"))

    def failure(self) -> Failure | None:
        """Return the failure that counts against the source of a connection that ended without a login."""
        if self._our_fault:
            return None
        if time.monotonic() - self._began >= self._settings.login_timeout:
            return Failure.TOO_SLOW
        return Failure.NO_LOGIN if self._tries else Failure.NO_ATTEMPT

    @property
    def forwards(self) -> int:
        """The number of forwards, including those that are being opened."""
        return len(self._relays) + len(self._opening)

    def disconnect(self, why: str) -> None:
        """Send the client a message and close its connection, through no fault of its own."""
        self._our_fault = True
        self._end(why)

    def _end(self, why: str) -> None:
        self._conn.disconnect(asyncssh.DISC_BY_APPLICATION, terminal_text(why))

    # Login

    def begin_auth(self, username: str) -> bool:  # noqa: ARG002 - everybody must log in, known or not
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Whether `key` may log in as `username`. asyncssh calls it for each offer and again for the signature."""
        credentials = await self._next_try(username)
        if credentials is None or key.public_data not in credentials.blobs:
            return False
        self._prove(ClientIdentity(username, fingerprint_of(key.public_data)), key, credentials)
        return True

    async def validate_certificate(self, username: str, certificate: asyncssh.SSHCertificate) -> bool:
        """Whether a certificate may log in. asyncssh checks its signature and its options."""
        credentials = await self._next_try(username)
        if credentials is None:
            return False
        try:
            found = UserCertificate.parse(certificate.public_data)
        except ValueError as error:
            _log.info("%s", log_line("certificate refused", user=username, peer=self._peer, reason=error))
            return False
        trusted = found.authority in credentials.authorities and found.key.blob not in credentials.revoked
        if not trusted or not found.is_valid_for(username, time.time()):
            return False
        words = f"{found.key_id} serial {found.serial}"
        self._prove(ClientIdentity(username, found.key.fingerprint, words), certificate.key, credentials)
        return True

    async def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Asked about a certificate's authority alone, after `validate_certificate`."""
        return key.public_data in (await self._keys.of(username)).authorities

    async def _next_try(self, username: str) -> AuthorizedCredentials | None:
        """Return the credentials of `username` for one more key; None after too many keys."""
        self._tries += 1
        if self._tries > self._settings.max_auth_tries:
            # OpenSSH's own words, which a session's sshd uses too.
            self._end(
                f"Too many authentication failures: {self._settings.max_auth_tries} keys may be tried. "
                "Set IdentityFile, and IdentitiesOnly yes, for this host in your ssh configuration"
            )
            return None
        credentials = await self._keys.of(username)
        if not credentials.confirmed and not self._warned:
            self._warned = self._our_fault = True
            self._conn.send_auth_banner(
                "berth: the controller does not answer; what is known from before still works\n"
            )
        return credentials

    def _prove(self, identity: ClientIdentity, key: asyncssh.SSHKey, credentials: AuthorizedCredentials) -> None:
        """Record the identity that the next signature will prove, if it is by `key`."""
        # asyncssh tells clients which signatures it wants, but then takes any that the key could make.
        key.all_sig_algorithms = {name.encode() for name in SIGNATURES}
        self._proved = identity
        self._notice = credentials.notices.get(self._login.session_name(self._settings.domain), "")

    def auth_completed(self) -> None:
        user = GatewayLogin.parse(self._conn.get_extra_info("username")).user
        if self._proved is None or self._proved.user != user:
            # Cannot happen with a sound library; docs/security.md, T5, has the cases where one was not.
            _log.error("%s", log_line("login without proof", peer=self._peer, user=user))
            self._conn.abort()
            return
        self._identity = self._proved
        if (certificate := self._identity.certificate) != "":
            key = self._identity.fingerprint
            line = log_line("login", user=user, key=key, certificate=certificate, peer=self._peer)
            _log.info("%s", line, extra=ALWAYS)
        self._live.log_in(self, user)
        self.on_login()
        connections = self._allowance(user, Resource.CONNECTIONS)
        self._counted = connections.take()
        if not self._counted:
            _log.warning("%s", log_line("too many connections", user=user, peer=self._peer))
            words = f"{user} has {connections.most} connections already"
            self._end(f"{words}: end some, or let them share one (ControlMaster)")

    def _allowance(self, user: str, kind: Resource) -> Allowance:
        settings = self._settings
        most = {
            Resource.CONNECTIONS: settings.max_user_connections,
            Resource.FORWARDS: settings.max_user_forwards,
            Resource.WINDOW_BYTES: settings.max_user_window_bytes,
        }
        return Allowance(self._usage, user, kind, most[kind])

    def _tell_first(self, conn: asyncssh.SSHServerConnection) -> Callable[[], Coroutine[Any, Any, None]]:
        """Return a `send_userauth_success` that sends the session's notice as a banner first.

        ssh(1) shows a banner only before the login is complete (RFC 4252, section 5.4). Before the check of the
        signature, a banner would show a user's notices to anyone who knows the public key.
        """
        send = conn.send_userauth_success

        async def send_banner_first() -> None:
            if self._notice:
                conn.send_auth_banner(f"berth: {terminal_text(self._notice)}\n")
            await send()

        return send_banner_first

    def _for_user(self, conn: asyncssh.SSHServerConnection) -> Callable[..., Coroutine[Any, Any, bool]]:
        """Return a `validate_public_key` that checks a key for the user alone, without the session in the login name.

        The signature covers the whole login name, which asyncssh keeps.
        """
        validate = conn.validate_public_key

        async def validate_for_user(username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
            self._login = GatewayLogin.parse(username)
            return await validate(self._login.user, key_data, msg, signature)

        return validate_for_user

    # What it may do

    def session_requested(self) -> bool:
        raise asyncssh.ChannelOpenError(
            asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
            "nothing runs on Berth's gateway itself: use it to reach a session, "
            f"ssh -J GATEWAY NAME.{self._settings.domain}",
        )

    def connection_requested(
        self,
        dest_host: str,
        dest_port: int,
        orig_host: str,  # noqa: ARG002 - the client's own claim, worth nothing
        orig_port: int,  # noqa: ARG002 - as above
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        return self._forward(dest_host, dest_port)

    async def _forward(self, target: str, port: int) -> asyncssh.SSHTCPSession[bytes]:
        """Resolve the session and connect. Every error must become a ChannelOpenError, whose text the user sees."""
        identity = self._identity
        if identity is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not logged in")
        if self._conn.is_closed():
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "the connection has ended")
        if self.forwards >= (most := self._settings.max_forwards):
            raise self._refusal(identity, target, RefusedError(f"{most} connections are open already"))
        forwards = self._allowance(identity.user, Resource.FORWARDS)
        if not forwards.take():
            words = f"{identity.user} has {forwards.most} connections to sessions already"
            raise self._refusal(identity, target, RefusedError(words, hint="close some"))
        task = asyncio.current_task()
        assert task is not None
        self._opening.add(task)
        try:
            if port != SSH_PORT:
                raise RefusedError(f"a session has port {SSH_PORT} only, not {port}", hint="leave the port out")
            return await self._connect(identity, await self._resolve(identity.user, target))
        except BaseException as error:
            forwards.give_back()
            if isinstance(error, BerthError):
                raise self._refusal(identity, target, error) from error
            if not isinstance(error, Exception):
                raise
            # asyncssh would end the connection, with all that it carries.
            _log.exception("%s", log_line("failed", user=identity.user, peer=self._peer, target=target))
            raise self._refusal(identity, target, BerthError("the gateway failed at this request")) from error
        finally:
            self._opening.discard(task)

    async def _connect(self, identity: ClientIdentity, session: ResolveAnswer) -> Relay:
        guest = None if session.role is None else GuestConnection(session_id=session.session_id, user=identity.user)

        def remove_relay(relay: Relay) -> None:
            if guest is not None:
                self._guests.remove(guest, relay)
            if relay in self._relays:
                self._relays.remove(relay)
                self._allowance(identity.user, Resource.FORWARDS).give_back()

        relay = Relay(self._audit.record_end, remove_relay, self._allowance(identity.user, Resource.WINDOW_BYTES))
        endpoint = EndpointAddress.of(session)
        try:
            self._guards.prepare(endpoint)
            await relay.connect(session.host, session.port, self._settings.answer_timeout)
            await self._guards.prove(endpoint)
            if guest is not None:
                await self._guests.add(guest, relay)
            if relay.over:
                raise ConnectionResetError("the session hung up")
            self._audit.record_begin(relay, identity, self._peer, session)
        except BaseException as error:
            relay.close()
            if not isinstance(error, (OSError, HostKeyMismatchError)):
                raise
            raise self._endpoint_error(session, error) from error
        self._relays.add(relay)
        for reason in self._paused:
            relay.pause(reason)
        if self._conn.is_closed():
            relay.close()
        return relay

    def _endpoint_error(self, session: ResolveAnswer, error: OSError | HostKeyMismatchError) -> BerthError:
        name, hint = (
            f"{session.owner}.{session.name}",
            f"the session may be ending; `berth show {session.name}` shows its state",
        )
        if isinstance(error, FloodError):
            words = f"the server on {session.host} for {name} sends more than an sshd does"
            return EndpointUnreachableError(words, hint="the gateway tries again within a minute")
        if isinstance(error, OSError):
            return EndpointUnreachableError(f"{name} does not answer on {session.host}", hint=hint)
        where = f"{session.host}:{session.port}"
        _log.error("%s", log_line("impostor", session=session.session_id, generation=session.generation, at=where))
        return HostKeyMismatchError(f"the server on {session.host} is not {name}; Berth sent it nothing", hint=hint)

    def _refusal(self, identity: ClientIdentity, target: str, error: BerthError) -> asyncssh.ChannelOpenError:
        _log.info(
            "%s",
            log_line(
                "refused",
                user=identity.user,
                key=identity.fingerprint,
                peer=self._peer,
                target=target,
                reason=error.reason,
                message=error.message,
            ),
        )
        self._counts.count("forwards", error.reason if isinstance(error, NotReachedError) else "refused")
        prohibited = isinstance(error, RefusedError)
        return asyncssh.ChannelOpenError(
            asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED if prohibited else asyncssh.OPEN_CONNECT_FAILED,
            terminal_text(error.message + (f" ({error.hint})" if error.hint else "")),
        )

    def pause(self, reason: PauseReason) -> None:
        """Stop reading from the connection's sessions until no reason to pause remains.

        asyncssh itself does not pause, so all data that the channels' windows allow would fill the gateway's memory.
        """
        self._paused.add(reason)
        for relay in self._relays:
            relay.pause(reason)

    def resume(self, reason: PauseReason) -> None:
        """Read from the sessions again, if that was the last reason to pause."""
        self._paused.discard(reason)
        for relay in self._relays:
            relay.resume(reason)


def terminal_text(text: str) -> str:
    """One line of printable ASCII: ssh(1) would show anything else in octal, and a terminal might obey it."""
    line = " ".join(text.split())
    return "".join(c if " " <= c <= "~" else "?" for c in line)[:MAX_TEXT_CHARS]
