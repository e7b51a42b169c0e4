"""The user at the other end of a Unix socket (SO_PEERCRED in unix(7)), for each HTTP request.

The uid is part of the connection's state, which no header of a request can reach. One account may act for others:
berth-web, with the delegation of a logged-in browser, on the routes of `route_access`.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002 - FastAPI reads this annotation when the application is made

from broker.controller.api.route_access import BERTH_WEB, DELEGATED
from broker.errors import LoggedOutError, RefusedError
from broker.schema.web import DELEGATION_HEADER

if TYPE_CHECKING:
    from broker.controller.accounts import AccountCache
    from broker.controller.registry.web_models import Delegation
    from broker.controller.web.web_access import WebAccess

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
    """The uid of the process that has sent the request."""
    user: str
    delegation: Delegation | None = None
    """The login of the browser for which berth-web has sent the request."""


async def caller(request: Request) -> Caller:
    """Return the user for whom the request is. RefusedError for a uid without an account or one that is not served,
    and for a route that the sender may not call; LoggedOutError for a delegation that has ended, or whose user has no
    account any more.

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
    web: WebAccess | None = request.app.state.web
    route = (request.method, request.scope["route"].path)
    secret = request.headers.get(DELEGATION_HEADER)
    if web is None or name != web.account:
        if secret is not None or route in BERTH_WEB:
            raise RefusedError("only berth-web may send this request")
        return Caller(peer.uid, name)
    if route not in (BERTH_WEB if secret is None else DELEGATED):
        raise RefusedError("a browser may not do this", hint="use the command line, where the user's own login counts")
    if secret is None:
        return Caller(peer.uid, name)
    delegation = await web.browsers.authenticate(secret)
    if await peer.accounts.name(delegation.uid) != delegation.user:
        raise LoggedOutError(f"{delegation.user} no longer has an account here", hint="ask the site's operators")
    return Caller(peer.uid, delegation.user, delegation)


def no_account(uid: int) -> str:
    return f"there is no account with the uid {uid} on this machine"
