"""Who is at the other end of a Unix socket, as the kernel says it (unix(7), SO_PEERCRED), carried into each HTTP
request.
"""

from __future__ import annotations

import logging
import pwd
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from fastapi import Request  # noqa: TC002 - FastAPI reads this annotation when the application is made
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker.errors import RefusedError

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

CONNECTIONS = 256
"""Connections that one user may have open at once, each with one request at a time; the gateway needs 64."""
_UCRED = struct.Struct("3i")  # pid, uid, gid


class PeerCredentialProtocol(H11Protocol):
    """uvicorn's HTTP protocol with the peer's uid in the place of a client address, and a share for each user."""

    _open: ClassVar[Counter[int]] = Counter()
    """Connections by uid."""
    _uid: int

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn declares its own Transport union
        super().connection_made(transport)
        peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(peer)
        self.client = (f"uid:{uid}", pid)
        self._uid = uid
        self._open[uid] += 1
        if self._open[uid] > CONNECTIONS:
            log.warning("uid %d has more than %d connections open; one is refused", uid, CONNECTIONS)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._open[self._uid] -= 1
        if not self._open[self._uid]:
            del self._open[self._uid]


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated user of the API."""

    uid: int
    user: str


def caller(request: Request) -> Caller:
    """The request's sender; RefusedError for an account that has no name here, or that this controller does not serve.

    The application's `state.only_uid` says whom it serves; None is everybody.
    """
    if request.client is None or not request.client.host.startswith("uid:"):
        raise RefusedError("this request came with no identity")
    uid = int(request.client.host.removeprefix("uid:"))
    if request.app.state.only_uid not in {None, uid}:
        raise RefusedError("this controller is another user's own")
    try:
        return Caller(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:
        raise RefusedError(f"there is no account with the uid {uid} on this machine") from None
