"""The client of the controller's API for berth-web, over the API's Unix socket.

A call with a delegation acts for the delegation's user. Other calls are berth-web's own, which the controller
recognises by its account.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

import httpx
from pydantic import BaseModel, ValidationError

from broker.errors import BerthError, ControllerUnavailableError, from_reason
from broker.schema.base import ErrorBody
from broker.schema.oidc import (
    ProviderAnswer,
    ProviderLogin,
    ProviderLoginRequest,
    ProviderLogout,
    ProviderLogoutAnswer,
)
from broker.schema.watch import EVENT_STREAM
from broker.schema.web import (
    DELEGATION_HEADER,
    DelegationAnswer,
    DelegationRequest,
    DoorAnswer,
    DoorRequest,
    LoginPreview,
    LogoutAnswer,
    ValidVisits,
    VisitAnswer,
    VisitCheck,
    VisitRequest,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MAX_USER_CALLS = 48
"""Concurrent calls for users and for browsers that log in; others wait. Streams do not count."""
MAX_CALLS_PER_LOGIN = 8
"""Those of them with one delegation, and those of browsers that log in."""
MAX_DOOR_CALLS = 16
"""Concurrent calls for doors, which no other calls keep waiting."""
MAX_PROVIDER_CALLS = 16
"""Concurrent calls for logins at the OpenID provider, which may be slow. They keep no other calls waiting."""
MAX_LOGOUT_CALLS = 8
"""The same for the provider's logouts."""
MAX_RESPONSE_BYTES = 16 * 2**20
"""Above every response of the API."""
CALL_TIMEOUT_S = 60.0
"""Time without a byte after which a call fails; the controller's calls about sessions return within a few seconds."""
STREAM_TIMEOUT_S = 180.0
"""Time without a byte after which a stream fails: three of the longest heartbeat intervals of the controller."""

_Answer = TypeVar("_Answer", bound=BaseModel)
_TLS_NEVER_USED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""One for all clients: httpx would take long to make another for each."""


class WebControllerClient:
    """Calls of berth-web. Each returns a validated answer, or raises the controller's error.

    ControllerUnavailableError means that there was no valid answer, so the controller may have carried the call out.
    Each call has a connection of its own: a call that is cancelled leaves nothing in a pool, and none meets a
    connection of a controller that has ended.
    """

    def __init__(self, api_socket: Path) -> None:
        self._api_socket = api_socket
        self._user_slots = asyncio.Semaphore(MAX_USER_CALLS)
        self._door_slots = asyncio.Semaphore(MAX_DOOR_CALLS)
        self._provider_slots = asyncio.Semaphore(MAX_PROVIDER_CALLS)
        self._logout_slots = asyncio.Semaphore(MAX_LOGOUT_CALLS)
        self._login_slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """By the delegation's secret, while there are calls with it."""

    async def preview_login(self, request: DelegationRequest) -> LoginPreview:
        """Return whose login the proof is. It can still be used."""
        return await self.call("POST", "/v1/web/links/check", LoginPreview, request)

    async def delegate(self, request: DelegationRequest) -> DelegationAnswer:
        """Exchange the proof of a login for a delegation. The proof is used up."""
        return await self.call("POST", "/v1/web/delegations", DelegationAnswer, request)

    async def begin_provider_login(self, request: ProviderLoginRequest) -> ProviderLogin:
        """Return the address at the OpenID provider at which the browser logs in."""
        async with self._provider_slots:
            return await self._call("POST", "/v1/web/provider/logins", ProviderLogin, request)

    async def complete_provider_login(self, answer: ProviderAnswer) -> DelegationAnswer:
        """Exchange the provider's answer for a delegation. The answer is used up."""
        async with self._provider_slots:
            return await self._call("POST", "/v1/web/provider/delegations", DelegationAnswer, answer)

    async def end_provider_logins(self, request: ProviderLogout) -> ProviderLogoutAnswer:
        """Carry a logout token of the provider to the controller, and return what it has ended."""
        async with self._logout_slots:
            return await self._call("POST", "/v1/web/provider/logout", ProviderLogoutAnswer, request)

    async def log_out(self, delegation: str) -> LogoutAnswer:
        """End the delegation with this secret, and its visits."""
        return await self.call("DELETE", "/v1/web/delegation", LogoutAnswer, delegation=delegation)

    async def visit(self, delegation: str, request: VisitRequest) -> VisitAnswer:
        """Open a service for the browser of this delegation."""
        return await self.call("POST", "/v1/web/visits", VisitAnswer, request, delegation=delegation)

    async def door(self, request: DoorRequest) -> DoorAnswer:
        """Return the way into a visit's session. ConflictError, in words, unless the session runs."""
        async with self._door_slots:
            return await self._call("POST", "/v1/web/door", DoorAnswer, request)

    async def valid_visits(self, visit_ids: list[str]) -> set[str]:
        """Return those of the visits that are valid. The call never waits for others."""
        answer = await self._call("POST", "/v1/web/visits/check", ValidVisits, VisitCheck(visit_ids=visit_ids))
        return set(answer.visit_ids)

    async def call(
        self, method: str, path: str, answer: type[_Answer], body: BaseModel | None = None, *, delegation: str = ""
    ) -> _Answer:
        """Send a request, as the delegation's user if there is one, and return the response as `answer`.

        `path` is the whole path with its query; the caller quotes the parts that come from a browser.
        """
        login_slots = self._login_slots.setdefault(delegation, asyncio.Semaphore(MAX_CALLS_PER_LOGIN))
        async with login_slots, self._user_slots:
            return await self._call(method, path, answer, body, delegation)

    async def _call(
        self, method: str, path: str, answer: type[_Answer], body: BaseModel | None, delegation: str = ""
    ) -> _Answer:
        content = None if body is None else body.model_dump_json(exclude_defaults=True)
        async with self._response(method, path, delegation, content) as response:
            try:
                return answer.model_validate_json(await _read(response))
            except (httpx.HTTPError, ValidationError) as error:
                raise _no_answer() from error

    @asynccontextmanager
    async def stream(self, path: str, *, delegation: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a stream of the API such as `/v1/sessions/watch`, and yield its chunks as they come.

        Iterating raises ControllerUnavailableError when the controller ends or falls silent.
        """
        async with self._response("GET", path, delegation, accept=EVENT_STREAM) as response:
            yield _chunks(response)

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, delegation: str, content: str | None = None, *, accept: str = "application/json"
    ) -> AsyncIterator[httpx.Response]:
        """Yield a successful response whose body is unread."""
        headers = {"Accept": accept}
        if delegation:
            headers[DELEGATION_HEADER] = delegation
        if content is not None:
            headers["Content-Type"] = "application/json"
        timeout_s = STREAM_TIMEOUT_S if accept == EVENT_STREAM else CALL_TIMEOUT_S
        transport = httpx.AsyncHTTPTransport(verify=_TLS_NEVER_USED, uds=str(self._api_socket))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://controller", timeout=timeout_s, trust_env=False
        ) as client:
            request = client.build_request(method, path, content=content, headers=headers)
            try:
                response = await client.send(request, stream=True)
                failure = None if response.is_success else _failure(await _read(response), response.status_code)
            except httpx.HTTPError as error:
                raise _no_answer() from error
            if failure is not None:
                raise failure
            yield response


async def _read(response: httpx.Response) -> bytes:
    """Return the body. ControllerUnavailableError if it is longer than every response of the API."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise _no_answer()
    return bytes(body)


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_bytes():
            yield chunk
    except httpx.HTTPError as error:
        raise _no_answer() from error


def _no_answer() -> ControllerUnavailableError:
    return ControllerUnavailableError(
        "Berth's controller does not answer", hint="try again in a moment; running sessions are not affected"
    )


def _failure(body: bytes, status: int) -> BerthError:
    try:
        error = ErrorBody.model_validate_json(body)
    except ValidationError:
        return ControllerUnavailableError(f"Berth's controller answered with {status}")
    return from_reason(error.reason, error.message, error.hint)
