"""A relay in front of a real OpenID provider, which can be slow or broken, and can change what the provider says."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import httpx
import uvicorn
from joserfc import jws
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable

    from starlette.requests import Request

METHODS = ["GET", "POST"]
TLS_NEVER_USED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""One for all clients: httpx would take long to make another for each."""
RECEIVER = "/receiver"
"""The path at which the relay takes logout tokens, in place of berth-web."""

Claims = dict[str, Any]


@dataclass
class Relay:
    """Relays requests from `listener` to the provider at the port `upstream`, both on loopback."""

    listener: socket.socket
    upstream: int
    forge: Callable[[Claims], str] | None = None
    """Makes the ID token out of the claims of the provider's own one."""
    answers: dict[str, Response] = field(default_factory=dict)
    """Answers in place of the provider's, by path."""
    silent: set[str] = field(default_factory=set)
    """Paths at which no answer comes."""
    requests: list[str] = field(default_factory=list)
    """The paths of all requests."""
    logout_tokens: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = Starlette(routes=[Route("/{path:path}", self._answer, methods=METHODS)])
        config = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
        server = _Server(config)
        task = asyncio.create_task(server.serve([self.listener.dup()]))
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
                    await asyncio.sleep(0.01)
            yield
        finally:
            server.should_exit = True
            await task

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        self.requests.append(path)
        if path in self.silent:
            await asyncio.Event().wait()
        if path in self.answers:
            return self.answers[path]
        if path == RECEIVER:
            (token,) = parse_qs((await request.body()).decode())["logout_token"]
            self.logout_tokens.append(token)
            return Response()
        return await self._relay(request)

    async def _relay(self, request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        transport = httpx.AsyncHTTPTransport(verify=TLS_NEVER_USED)
        async with httpx.AsyncClient(transport=transport, trust_env=False, timeout=DEADLINE_S) as client:
            answer = await client.request(
                request.method,
                f"http://127.0.0.1:{self.upstream}{request.url.path}",
                params=request.url.query,
                headers=headers,
                content=await request.body(),
            )
        content = answer.content
        if request.url.path == "/token" and answer.status_code == 200 and self.forge is not None:
            content = self._forged(content)
        response = Response(content, answer.status_code)
        for name, value in answer.headers.multi_items():
            if name not in {"content-length", "transfer-encoding", "connection", "content-encoding"}:
                response.headers.append(name, value)
        return response

    def _forged(self, content: bytes) -> bytes:
        answer = json.loads(content)
        assert self.forge is not None
        answer["id_token"] = self.forge(claims_of(answer["id_token"]))
        return json.dumps(answer).encode()


def claims_of(token: str) -> Claims:
    """Return the claims of a token, unchecked."""
    claims: Claims = json.loads(jws.extract_compact(token.encode()).payload)
    return claims


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:  # noqa: ANN401 - as uvicorn declares it
        """Leave signals to pytest."""
        yield
