"""What the gateway asks the controller, and tells it: four calls over its Unix socket, without blocking."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from broker import schema
from broker.errors import BerthError, ControllerUnavailableError, WaitingError, from_reason

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from broker.gateway.counts import Counts

KEYS_TIMEOUT = 15.0
"""Seconds; less than the gateway's login timeout, so that the user still gets the message."""

ANSWER_TIMEOUT = 30.0
"""Seconds for the other answers. Generous, because the time that the gateway itself is busy counts: in a burst of
logins an answer may lie there for a while before it is looked at."""

_QUESTIONS: dict[type[BaseModel], str] = {
    schema.GatewayKeys: "keys",
    schema.ResolveAnswer: "resolve",
    schema.CertificateAnswer: "certificate",
    schema.ConnectionsNoted: "connections",
}
"""What each is called in the metrics, by its answer."""

_Answer = TypeVar("_Answer", bound=BaseModel)


class ControllerClient:
    """An async context manager around two pools of connections; it outlives restarts of the controller. Questions that
    wait for a session have one of their own, so that they keep nobody from logging in.

    Every call either answers or raises: ControllerUnavailableError when there is no answer or none that makes sense,
    otherwise the error that the controller sent.
    """

    def __init__(self, api_socket: Path, counts: Counts) -> None:
        self._counts = counts
        self._http, self._waiting = _pool(api_socket, 64), _pool(api_socket, 128)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()
        await self._waiting.aclose()

    async def keys(self, user: str) -> schema.GatewayKeys:
        """Ask which keys and certificates may log in as `user`, none for an unknown one, and what to tell them then."""
        path = f"/v1/gateway/keys/{quote(user, safe='')}?notices=true&certificates=true"
        try:
            async with asyncio.timeout(KEYS_TIMEOUT):
                answer = await self._call("GET", path, schema.GatewayKeys)
        except TimeoutError as error:
            raise _no_answer() from error
        return answer

    async def resolve(self, user: str, target: str) -> schema.ResolveAnswer:
        """Ask where the session that `user` means by `target` listens; while it is on its way, as long as the
        controller wants to be asked again.
        """
        began = time.monotonic()
        request = schema.ResolveRequest(user=user, target=target)
        pool = self._http
        while True:
            try:
                return await self._call("POST", "/v1/resolve", schema.ResolveAnswer, request, pool)
            except WaitingError:
                request = request.model_copy(update={"waited": time.monotonic() - began})
                pool = self._waiting

    async def certificate(self, public_key: str) -> str:
        """Have the gateway's own host key certified; one line."""
        request = schema.CertificateRequest(public_key=public_key)
        answer = await self._call("POST", "/v1/gateway/certificate", schema.CertificateAnswer, request)
        return answer.certificate

    async def note(self, report: schema.ConnectionReport) -> None:
        """Have records of connections kept."""
        await self._call("POST", "/v1/connections", schema.ConnectionsNoted, report)

    async def _call(
        self,
        method: str,
        path: str,
        answer: type[_Answer],
        body: BaseModel | None = None,
        pool: httpx.AsyncClient | None = None,
    ) -> _Answer:
        began = time.monotonic()
        content = None if body is None else body.model_dump_json(exclude_defaults=True)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = await _request(pool or self._http, method, path, content, headers)
            if response.is_success:
                found = answer.model_validate_json(response.content)
                if pool is not self._waiting:
                    self._counts.took("controller_seconds", _QUESTIONS[answer], time.monotonic() - began)
                return found
        except (httpx.HTTPError, ValidationError) as error:
            self._counts.count("controller_errors")
            raise _no_answer() from error
        raise _failure(response)


def _pool(api_socket: Path, most: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(
            uds=str(api_socket), limits=httpx.Limits(max_connections=most, max_keepalive_connections=8)
        ),
        base_url="http://controller",
        timeout=httpx.Timeout(ANSWER_TIMEOUT, pool=None),
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
        body = schema.ErrorBody.model_validate_json(response.content)
    except ValidationError:
        return ControllerUnavailableError(f"Berth's controller answered with {response.status_code}")
    return from_reason(body.reason, body.message, body.hint)
