"""The answers that the gateway needs, over real HTTP on a real Unix socket, which comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs

from broker.errors import BerthError, InvalidInputError, NotFoundError, WaitingError
from broker.schema.base import ErrorBody, SessionWait
from broker.schema.connections import (
    ConnectionRecord,
    ConnectionReport,
    ConnectionsNoted,
    GatewayGuests,
    GatewayGuestsAnswer,
    GatewayWait,
    GatewayWaitAnswer,
    GuestConnection,
    ResolveAnswer,
)
from broker.schema.login import CertificateAnswer, GatewayKeys
from broker.ssh.host_names import gateway_host

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from pydantic import BaseModel

    from broker.schema.grants import Role
    from broker.ssh.certificates import CertificateAuthority


GUESTS_SESSION = "1" * 26
"""The id of a session that has guests."""
ON_ITS_WAY = "0" * 26
"""The id of the session that is waited for; it changes all the time."""


class GatewayController:
    """Knows `keys` (user → authorized_keys lines) and `sessions` (user, target → address or refusal)."""

    def __init__(self, path: Path, authority: CertificateAuthority) -> None:
        self.path = path
        self.authority = authority
        self.principals = [gateway_host("berth")]
        self.valid_seconds = 3600.0
        self.keys: dict[str, list[str]] = {}
        self.sessions: dict[tuple[str, str], tuple[str, int] | BerthError] = {}
        self.authorities: list[str] = []
        """The authorities whose certificates are good for every session."""
        self.revoked: list[str] = []
        self.notices: dict[str, dict[str, str]] = {}
        """By user and session."""
        self.waits = 0
        """The number of answers that the session is on its way."""
        self.waited: list[float] = []
        self.fingerprint = ""
        """Of the sessions' host key."""
        self.generation = "1.0"
        self.connections: dict[str, ConnectionRecord] = {}
        """The last report of each connection, by its id."""
        self.gateways: set[str] = set()
        """The gateways that have reported connections."""
        self.refuses: BerthError | None = None
        """The answer to reports of connections; None: they are accepted."""
        self.roles: dict[tuple[str, str], Role] = {}
        """The role of a user who is a guest there, by user and target."""
        self.guests: dict[str, list[GuestConnection]] = {}
        """The last list of each worker."""
        self.ended = asyncio.Event()
        """Set when the access of all guests has ended."""
        self.asked: list[str] = []
        self.hung = False
        """Take questions and never answer."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def stop(self) -> None:
        """Go away as a killed process does: the socket's file stays, connections break."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while await self._answer_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *headers = head.splitlines()
        method, path, _ = request.split(" ")
        length = next((int(h.split(":")[1]) for h in headers if h.lower().startswith("content-length:")), 0)
        body = json.loads(await reader.readexactly(length)) if length else {}
        self.asked.append(f"{method} {path}")
        if self.hung:
            return bool(await reader.read(1))
        try:
            is_guests = path == "/v1/gateway/guests"
            status, answer = 200, await self._guests(body) if is_guests else self._answer(method, path, body)
        except BerthError as error:
            status = error.status
            answer = ErrorBody(reason=error.reason, message=error.message, hint=error.hint)
            if isinstance(error, WaitingError):
                wait = SessionWait(session_id=error.session_id, revision=error.revision, seconds=error.seconds)
                answer = answer.model_copy(update={"waiting": wait})
        content = answer.model_dump_json(exclude_none=True).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n" % status)
        writer.write(b"Content-Length: %d\r\n\r\n" % len(content) + content)
        await writer.drain()
        return True

    async def _guests(self, body: dict[str, Any]) -> BaseModel:
        report = GatewayGuests.model_validate(body)
        self.guests[report.worker] = report.guests
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), report.seconds)
        return GatewayGuestsAnswer(ended=report.guests if self.ended.is_set() else [])

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> BaseModel:
        path, _, query = path.partition("?")
        match method, path.split("/")[2:]:
            case "GET", ["gateway", "keys", user]:
                asked = parse_qs(query)
                answer: dict[str, Any] = {"user": user, "keys": self.keys.get(user, [])}
                if "session_notices" in asked:
                    answer |= {"session_notices": self.notices.get(user, {})}
                if "certificates" in asked:
                    answer |= {"authorities": self.authorities, "revoked": self.revoked}
                return GatewayKeys.model_validate(answer)
            case "POST", ["gateway", "certificate"]:
                line = self.authority.sign_host(
                    body["public_key"],
                    self.principals,
                    valid_seconds=self.valid_seconds,
                    serial=1,
                    key_id="gateway",
                )
                return CertificateAnswer(certificate=line)
            case "POST", ["connections"]:
                if self.refuses is not None:
                    raise self.refuses
                report = ConnectionReport.model_validate(body)
                self.gateways.add(report.gateway)
                self.connections |= {record.id: record for record in report.connections}
                return ConnectionsNoted(noted=len(report.connections))
            case "POST", ["gateway", "wait"]:
                waited_for = GatewayWait.model_validate(body).sessions
                return GatewayWaitAnswer(changed=[each.session_id for each in waited_for])
            case "POST", ["resolve"]:
                if self.waits:
                    self.waits -= 1
                    self.waited.append(float(body.get("waited", 0.0)))
                    assert not body["hold"]
                    raise WaitingError("dev is queued", session_id=ON_ITS_WAY, revision=self.waits, seconds=20)
                return self._resolve(body["user"], body["target"])
        raise InvalidInputError(f"no such call: {method} {path}")

    def _resolve(self, user: str, target: str) -> ResolveAnswer:
        where = self.sessions.get((user, target))
        if where is None:
            raise NotFoundError(f"you have no session {target}", hint="`berth list` shows yours")
        if isinstance(where, BerthError):
            raise where
        return ResolveAnswer(
            session_id="01session" if (user, target) not in self.roles else GUESTS_SESSION,
            role=self.roles.get((user, target)),
            owner=user,
            name="dev",
            generation=self.generation,
            host=where[0],
            port=where[1],
            fingerprint=self.fingerprint,
        )
