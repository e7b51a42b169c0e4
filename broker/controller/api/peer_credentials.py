"""The user at the other end of a Unix socket (SO_PEERCRED in unix(7)), for each HTTP request.

The uid is part of the connection's state, which no header of a request can reach.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - FastAPI reads this annotation when the application is made

from broker.errors import RefusedError

if TYPE_CHECKING:
    from broker.controller.accounts import AccountCache

_UCRED = struct.Struct("iII")  # pid, uid, gid


def peer_uid(connection: socket.socket) -> int:
    """Return the uid that the peer had when it connected. OSError if the connection is closed."""
    uid: int = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
    return uid


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: `request.state.peer` of all its requests."""

    uid: int
    accounts: AccountCache


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated user of the API."""

    uid: int
    user: str


async def caller(request: Request) -> Caller:
    """Return the request's sender. RefusedError for a uid without an account or one that is not served.

    If the application's `state.only_uid` is set, it serves only that uid.
    """
    peer = getattr(request.state, "peer", None)
    if not isinstance(peer, Peer):
        raise RefusedError("this connection has no peer credentials")
    if request.app.state.only_uid not in {None, peer.uid}:
        raise RefusedError("this controller belongs to another user")
    name = await peer.accounts.name(peer.uid)
    if name is None:
        raise RefusedError(no_account(peer.uid))
    return Caller(peer.uid, name)


def no_account(uid: int) -> str:
    return f"there is no account with the uid {uid} on this machine"
