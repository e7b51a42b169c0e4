"""The controller as berth-web sees it, over real HTTP on a Unix socket, which comes and goes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Self

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.errors import BerthError, NotFoundError, TooManyError
from broker.names import new_id
from broker.schema.base import ErrorBody
from broker.schema.web import DELEGATION_HEADER, DoorAnswer, DoorRequest, ValidVisits, VisitAnswer, VisitCheck
from broker.web.http_server import UnixHttpServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from starlette.requests import Request


class WebController:
    """Knows `visits` by their secrets. `door` answers for a visit, or raises a BerthError."""

    def __init__(self, path: Path, door: Callable[[VisitAnswer, str], DoorAnswer]) -> None:
        self.path = path
        self.door = door
        self.visits: dict[str, VisitAnswer] = {}
        self.doors = 0
        """The number of doors that were opened."""
        self.refusal: BerthError | None = None
        """The error in place of an answer about a door."""
        self.check_status = 200
        """Another one: visits are not checked."""
        self.runs = asyncio.Event()
        """Cleared: it accepts requests and answers none, as after SIGSTOP."""
        self.runs.set()
        self.waiting = asyncio.Event()
        """Set once a request has met that."""
        self._server: UnixHttpServer | None = None

    def visit(
        self, host: str, service: str, session_id: str, *, seconds: float = 3600, user: str = "alice"
    ) -> VisitAnswer:
        """A new visit of a browser of its own, by the owner alice or a guest."""
        made = VisitAnswer(
            id=new_id(),
            secret=new_id(),
            delegation_id=new_id(),
            user=user,
            owner="alice",
            session_id=session_id,
            session="dev",
            service=service,
            host=host,
            expires_at=time.time() + seconds,
        )
        self.visits[made.secret] = made
        return made

    async def __aenter__(self) -> Self:
        routes = [
            Route("/v1/web/door", self._door, methods=["POST"]),
            Route("/v1/web/visits", self._visit, methods=["POST"]),
            Route("/v1/web/visits/check", self._check, methods=["POST"]),
        ]
        self._server = UnixHttpServer(self.path, Starlette(routes=routes), lambda _: True)
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.vanish()

    async def vanish(self) -> None:
        """End, as by SIGKILL."""
        if self._server is not None:
            await self._server.__aexit__(None, None, None)
            self.path.unlink()
            self._server = None

    async def _door(self, request: Request) -> Response:
        body = DoorRequest.model_validate_json(await request.body())
        await self._run()
        self.doors += 1
        try:
            if self.refusal is not None:
                raise self.refusal
            if body.visit not in self.visits:
                raise NotFoundError("the visit has ended")
            return JSONResponse(self.door(self.visits[body.visit], body.public_key).model_dump(), 201)
        except BerthError as error:
            failure = ErrorBody(reason=error.reason, message=error.message, hint=error.hint)
            return JSONResponse(failure.model_dump(), error.status)

    async def _visit(self, request: Request) -> Response:
        """A delegation's secret is, here, that of its only visit."""
        return JSONResponse(self.visits[request.headers[DELEGATION_HEADER]].model_dump(), 201)

    async def _run(self) -> None:
        if not self.runs.is_set():
            self.waiting.set()
        await self.runs.wait()

    async def _check(self, request: Request) -> Response:
        await self._run()
        if self.check_status == 429:
            failure = ErrorBody(reason=TooManyError.reason, message="too many requests", hint="wait")
            return JSONResponse(failure.model_dump(), 429)
        if self.check_status != 200:
            return Response("internal error", self.check_status)
        asked = set(VisitCheck.model_validate_json(await request.body()).visit_ids)
        return JSONResponse(
            ValidVisits(visit_ids=sorted(asked & {each.id for each in self.visits.values()})).model_dump()
        )
