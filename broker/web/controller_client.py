"""The client of the controller's API for berth-web, over the API's Unix socket.

A call with a delegation acts for the delegation's user. Other calls are berth-web's own, which the controller
recognises by its account.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

import httpx
from pydantic import BaseModel, ValidationError

from broker.schema.failures import no_answer, read_failure
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
    WATCH_STREAMS_PATH,
    WATCHES_PATH,
    BrowserWatchAnswer,
    BrowserWatchRequest,
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
    WatchEnded,
    WatchStreamRequest,
)
from broker.service.unix_http import unix_client
from broker.web import metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from broker.errors import ControllerUnavailableError

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
                raise _count_no_answer() from error

    async def watch(self, delegation: str, request: BrowserWatchRequest) -> BrowserWatchAnswer:
        """Have the changes for the browser of this delegation in a stream. NotFoundError if the stream has ended."""
        return await self.call("POST", WATCHES_PATH, BrowserWatchAnswer, request, delegation=delegation)

    async def end_watch(self, watch_id: str) -> None:
        """End a watch, also one that has ended."""
        await self.call("DELETE", f"{WATCHES_PATH}/{watch_id}", WatchEnded)

    @asynccontextmanager
    async def stream(self, request: WatchStreamRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the stream with the changes of all watched browsers, and yield its chunks as they come.

        Iterating raises ControllerUnavailableError when the controller ends or falls silent.
        """
        body = request.model_dump_json()
        async with self._response("POST", WATCH_STREAMS_PATH, "", body, accept=EVENT_STREAM) as response:
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
        async with unix_client(self._api_socket, timeout_s) as client:
            request = client.build_request(method, path, content=content, headers=headers)
            try:
                response = await client.send(request, stream=True)
                failure = None if response.is_success else read_failure(await _read(response), response.status_code)
            except httpx.HTTPError as error:
                raise _count_no_answer() from error
            if failure is not None:
                raise failure
            yield response


async def _read(response: httpx.Response) -> bytes:
    """Return the body. ControllerUnavailableError if it is longer than every response of the API."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_RESPONSE_BYTES:
            raise _count_no_answer()
    return bytes(body)


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_bytes():
            yield chunk
    except httpx.HTTPError as error:
        raise _count_no_answer() from error


def _count_no_answer() -> ControllerUnavailableError:
    metrics.CONTROLLER_ERRORS.inc()
    return no_answer()
