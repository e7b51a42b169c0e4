"""Who is at the other end of a Unix socket, as the kernel says it (unix(7), SO_PEERCRED), carried into each HTTP
request.
"""

from __future__ import annotations

import pwd
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - FastAPI reads this annotation when the application is made
from uvicorn.protocols.http.h11_impl import H11Protocol

from broker.errors import RefusedError

if TYPE_CHECKING:
    import asyncio

_UCRED = struct.Struct("3i")  # pid, uid, gid


class PeerCredentialProtocol(H11Protocol):
    """uvicorn's HTTP protocol with the peer's uid in the place of a client address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn declares its own Transport union
        super().connection_made(transport)
        peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _ = _UCRED.unpack(peer)
        self.client = (f"uid:{uid}", pid)


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated user of the API."""

    uid: int
    user: str


def caller(request: Request) -> Caller:
    """The request's sender; RefusedError for an account that has no name here."""
    if request.client is None or not request.client.host.startswith("uid:"):
        raise RefusedError("this request came with no identity")
    uid = int(request.client.host.removeprefix("uid:"))
    try:
        return Caller(uid, pwd.getpwuid(uid).pw_name)
    except KeyError:
        raise RefusedError(f"there is no account with the uid {uid} on this machine") from None
