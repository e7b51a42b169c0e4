"""The gateway's client of the controller: six calls over its Unix socket, without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

import httpx
from pydantic import BaseModel, ValidationError

from broker.errors import ControllerUnavailableError, WaitingError
from broker.gateway.settings import LOGIN_QUESTIONS, RESOLVE_QUESTIONS
from broker.gateway.waits import SessionWaits
from broker.schema.connections import (
    ConnectionReport,
    ConnectionsNoted,
    GatewayGuests,
    GatewayGuestsAnswer,
    GatewayWait,
    GatewayWaitAnswer,
    ResolveAnswer,
    ResolveRequest,
)
from broker.schema.failures import no_answer, read_failure
from broker.schema.login import CertificateAnswer, CertificateRequest, GatewayKeys
from broker.service.unix_http import unix_client

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from types import TracebackType

    from broker.gateway.counters import Counters

KEYS_TIMEOUT_S = 15.0
"""Seconds; less than the gateway's login timeout, so that the user still gets the message."""

RESPONSE_TIMEOUT_S = 30.0
"""Seconds for the other answers. They include the time that the gateway itself is busy: in a burst of logins an answer
may wait before the gateway reads it."""

MAX_REQUESTS_PER_USER = 4
"""Concurrent queries of each kind about one user, so that a user whose files hang delays no other user."""
RESTART_S = 10.0
"""Time that a client waits for a controller that does not answer: it may be restarting."""
RETRY_S = 1.0
"""Pause between two attempts to reach the controller."""

_QUESTIONS: dict[type[BaseModel], str] = {
    GatewayKeys: "keys",
    ResolveAnswer: "resolve",
    CertificateAnswer: "certificate",
    ConnectionsNoted: "connections",
}
"""The label of each query in the metrics, by the type of its answer."""

_Answer = TypeVar("_Answer", bound=BaseModel)


class ControllerClient:
    """An async context manager around pools of connections; it survives restarts of the controller.

    Queries about sessions have their own pool, so that they do not delay logins. Every call returns an answer or
    raises: ControllerUnavailableError without a valid answer, otherwise the controller's error.
    """

    def __init__(self, api_socket: Path, counts: Counters) -> None:
        self._counts = counts
        self._api_socket = api_socket
        self._logins, self._resolves = (
            _RequestPool(api_socket, LOGIN_QUESTIONS),
            _RequestPool(api_socket, RESOLVE_QUESTIONS),
        )
        self._waits = SessionWaits(self._wait)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waits.close()
        await self._logins.close()
        await self._resolves.close()

    async def keys(self, user: str) -> GatewayKeys:
        """Return the keys and certificates that may log in as `user`, none for an unknown user, and the notices."""
        path = f"/v1/gateway/keys/{quote(user, safe='')}?session_notices=true&certificates=true"
        try:
            async with asyncio.timeout(KEYS_TIMEOUT_S):
                return await self._call(self._logins, "GET", path, GatewayKeys, user=user)
        except TimeoutError as error:
            raise no_answer() from error

    async def resolve(self, user: str, target: str) -> ResolveAnswer:
        """Return the endpoint of the session that `user` names by `target`.

        While the session is starting, repeat the query after each change, as long as the controller requests it. Cancel
        the call when the client has disconnected.
        """
        began = time.monotonic()
        away_since: float | None = None
        request = ResolveRequest(user=user, target=target, hold=False)
        while True:
            asked = time.monotonic()
            try:
                return await self._call(self._resolves, "POST", "/v1/resolve", ResolveAnswer, request, user=user)
            except WaitingError as error:
                away_since = None
                if error.session_id:
                    await self._waits.until_changed(error.session_id, error.revision, error.seconds)
                else:
                    await asyncio.sleep(RETRY_S)
            except ControllerUnavailableError:
                away_since = asked if away_since is None else away_since
                if not request.waited or time.monotonic() - away_since > RESTART_S:
                    raise
                await asyncio.sleep(RETRY_S)
            request = request.model_copy(update={"waited": time.monotonic() - began})

    async def _wait(self, question: GatewayWait) -> GatewayWaitAnswer:
        """Wait until one of these sessions changes, and return the ids of those that have changed."""
        async with _pool(self._api_socket, 1) as pool:  # which ends when this is cancelled, and the connection with it
            return await self._answer(pool, "POST", "/v1/gateway/wait", GatewayWaitAnswer, question)

    async def guests(self, report: GatewayGuests) -> GatewayGuestsAnswer:
        """Report the guests of this worker. The answer names those whose access has ended, as soon as there are any."""
        async with _pool(self._api_socket, 1) as pool:  # as in _wait
            return await self._answer(pool, "POST", "/v1/gateway/guests", GatewayGuestsAnswer, report)

    async def certificate(self, public_key: str) -> str:
        """Request a certificate for the gateway's host key; return its line."""
        request = CertificateRequest(public_key=public_key)
        path = "/v1/gateway/certificate"
        answer = await self._call(self._logins, "POST", path, CertificateAnswer, request)
        return answer.certificate

    async def note(self, report: ConnectionReport) -> None:
        """Send records of connections."""
        await self._call(self._logins, "POST", "/v1/connections", ConnectionsNoted, report)

    async def _call(
        self,
        lane: _RequestPool,
        method: str,
        path: str,
        answer: type[_Answer],
        body: BaseModel | None = None,
        *,
        user: str | None = None,
    ) -> _Answer:
        """`user`: whose share of the lane it is."""
        began = time.monotonic()
        found = await lane.ask(lambda pool: self._answer(pool, method, path, answer, body), user)
        self._counts.measure("controller_seconds", _QUESTIONS[answer], time.monotonic() - began)
        return found

    async def _answer(
        self, pool: httpx.AsyncClient, method: str, path: str, answer: type[_Answer], body: BaseModel | None
    ) -> _Answer:
        content = None if body is None else body.model_dump_json(exclude_defaults=True)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = await _request(pool, method, path, content, headers)
            if response.is_success:
                return answer.model_validate_json(response.content)
        except (httpx.HTTPError, ValidationError) as error:
            self._counts.count("controller_errors")
            raise no_answer() from error
        raise read_failure(response.content, response.status_code)


class _RequestPool:
    """A pool of connections, which allows as many concurrent queries.

    A query runs to its end even if its caller is cancelled. Otherwise httpcore's pool would lose a connection with each
    request that is cancelled at the wrong moment, until it has none left.
    """

    def __init__(self, api_socket: Path, most: int) -> None:
        self._pool = _pool(api_socket, most)
        self._places = asyncio.Semaphore(most)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._asked: set[asyncio.Task[Any]] = set()

    async def ask(
        self, ask: Callable[[httpx.AsyncClient], Coroutine[None, None, _Answer]], user: str | None
    ) -> _Answer:
        """Send the query when the pool has a free connection, and `user` is below the limit."""
        needed = [self._places]
        if user is not None:
            needed.insert(0, self._shares.setdefault(user, asyncio.Semaphore(MAX_REQUESTS_PER_USER)))
        async with contextlib.AsyncExitStack() as stack:
            for each in needed:
                await stack.enter_async_context(each)
            task = asyncio.create_task(ask(self._pool))
            stack.pop_all()  # they are free when it is answered
        self._asked.add(task)

        def note_answer(task: asyncio.Task[_Answer]) -> None:
            self._asked.discard(task)
            for each in needed:
                each.release()
            if not task.cancelled():
                task.exception()  # its caller may have been cancelled

        task.add_done_callback(note_answer)
        return await asyncio.shield(task)

    async def close(self) -> None:
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        await self._pool.aclose()


def _pool(api_socket: Path, most: int) -> httpx.AsyncClient:
    return unix_client(api_socket, httpx.Timeout(RESPONSE_TIMEOUT_S, pool=None), max_connections=most)


async def _request(
    pool: httpx.AsyncClient, method: str, path: str, content: str | None, headers: dict[str, str]
) -> httpx.Response:
    """Ask again once when the connection broke: one from the pool that died with the last controller is found out only
    by using it, and every call may be made twice.
    """
    try:
        return await pool.request(method, path, content=content, headers=headers)
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
        return await pool.request(method, path, content=content, headers=headers)
