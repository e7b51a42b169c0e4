"""The gateway's client of the controller: five calls over its Unix socket, without blocking."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote
from weakref import WeakValueDictionary

import httpx
from pydantic import BaseModel, ValidationError

from broker.errors import BerthError, ControllerUnavailableError, WaitingError, from_reason
from broker.gateway.settings import LOGIN_QUESTIONS, RESOLVE_QUESTIONS
from broker.gateway.waits import SessionWaits
from broker.schema.base import ErrorBody
from broker.schema.connections import (
    ConnectionReport,
    ConnectionsNoted,
    GatewayWait,
    GatewayWaitAnswer,
    ResolveAnswer,
    ResolveRequest,
)
from broker.schema.login import CertificateAnswer, CertificateRequest, GatewayKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from types import TracebackType

    from broker.gateway.counters import Counters

KEYS_TIMEOUT_S = 15.0
"""Seconds; less than the gateway's login timeout, so that the user still gets the message."""

RESPONSE_TIMEOUT_S = 30.0
"""Seconds for the other answers. Generous, because the time that the gateway itself is busy counts: in a burst of
logins an answer may lie there for a while before it is looked at."""

MAX_REQUESTS_PER_USER = 4
"""Questions of each kind about one user, at once; a user whose files hang holds up no other user's."""
RESTART_S = 10.0
"""Time for which a client keeps waiting when the controller does not answer: a restart may be under way."""
RETRY_S = 1.0
"""Pause between two attempts to reach the controller."""

_QUESTIONS: dict[type[BaseModel], str] = {
    GatewayKeys: "keys",
    ResolveAnswer: "resolve",
    CertificateAnswer: "certificate",
    ConnectionsNoted: "connections",
}
"""What each is called in the metrics, by its answer."""

_Answer = TypeVar("_Answer", bound=BaseModel)


class ControllerClient:
    """An async context manager around pools of connections; it outlives restarts of the controller.

    Questions about sessions have a pool of their own, beside that of log-ins, records and certificates: they keep no
    user from logging in. Every call either answers or raises: ControllerUnavailableError when there is no answer or
    none that makes sense, otherwise the error that the controller sent.
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
        """Ask which keys and certificates may log in as `user`, none for an unknown one, and what to tell them then."""
        path = f"/v1/gateway/keys/{quote(user, safe='')}?notices=true&certificates=true"
        try:
            async with asyncio.timeout(KEYS_TIMEOUT_S):
                return await self._call(self._logins, "GET", path, GatewayKeys, user=user)
        except TimeoutError as error:
            raise _no_answer() from error

    async def resolve(self, user: str, target: str) -> ResolveAnswer:
        """Ask where the session that `user` means by `target` listens; while it is on its way, whenever it changes, for
        as long as the controller wants to be asked again. Cancel it when the client has left: nothing is kept then.
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
        """Have the controller tell which of these sessions has changed, when one has."""
        async with _pool(self._api_socket, 1) as pool:  # which ends when this is cancelled, and the connection with it
            return await self._answer(pool, "POST", "/v1/gateway/wait", GatewayWaitAnswer, question)

    async def certificate(self, public_key: str) -> str:
        """Have the gateway's own host key certified; one line."""
        request = CertificateRequest(public_key=public_key)
        path = "/v1/gateway/certificate"
        answer = await self._call(self._logins, "POST", path, CertificateAnswer, request)
        return answer.certificate

    async def note(self, report: ConnectionReport) -> None:
        """Have records of connections kept."""
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
        self._counts.took("controller_seconds", _QUESTIONS[answer], time.monotonic() - began)
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
            raise _no_answer() from error
        raise _failure(response)


class _RequestPool:
    """A pool of connections, which allows as many questions at once.

    A question is asked to its end, even if its asker is cancelled. Otherwise httpcore's pool would lose a place with
    each request that is cancelled at the wrong moment, until it has none left.
    """

    def __init__(self, api_socket: Path, most: int) -> None:
        self._pool = _pool(api_socket, most)
        self._places = asyncio.Semaphore(most)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._asked: set[asyncio.Task[Any]] = set()

    async def ask(
        self, ask: Callable[[httpx.AsyncClient], Coroutine[None, None, _Answer]], user: str | None
    ) -> _Answer:
        """Ask when there is a place, and `user` has a share left."""
        needed = [self._places]
        if user is not None:
            needed.insert(0, self._shares.setdefault(user, asyncio.Semaphore(MAX_REQUESTS_PER_USER)))
        async with contextlib.AsyncExitStack() as stack:
            for each in needed:
                await stack.enter_async_context(each)
            task = asyncio.create_task(ask(self._pool))
            stack.pop_all()  # they are free when it is answered
        self._asked.add(task)

        def answered(task: asyncio.Task[_Answer]) -> None:
            self._asked.discard(task)
            for each in needed:
                each.release()
            if not task.cancelled():
                task.exception()  # its asker may have left

        task.add_done_callback(answered)
        return await asyncio.shield(task)

    async def close(self) -> None:
        for task in self._asked:
            task.cancel()
        await asyncio.gather(*self._asked, return_exceptions=True)
        await self._pool.aclose()


_NEVER_USED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""One for all pools: httpx would take long to make another for each."""


def _pool(api_socket: Path, most: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(
            verify=_NEVER_USED,
            uds=str(api_socket),
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=8),
        ),
        base_url="http://controller",
        timeout=httpx.Timeout(RESPONSE_TIMEOUT_S, pool=None),
        trust_env=False,
    )


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


def _no_answer() -> ControllerUnavailableError:
    return ControllerUnavailableError(
        "Berth's controller does not answer", hint="try again in a moment; running sessions are not affected"
    )


def _failure(response: httpx.Response) -> BerthError:
    try:
        body = ErrorBody.model_validate_json(response.content)
    except ValidationError:
        return ControllerUnavailableError(f"Berth's controller answered with {response.status_code}")
    if body.waiting is not None:
        return WaitingError(body.message, hint=body.hint, **body.waiting.model_dump())
    return from_reason(body.reason, body.message, body.hint)
