"""Concurrent calls of berth-web to the controller."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from broker.names import new_id
from broker.schema.web import DELEGATION_HEADER, BrowserList, DoorRequest
from broker.web.controller_client import MAX_CALLS_PER_LOGIN, MAX_USER_CALLS, WebControllerClient
from broker.web.http_server import UnixHttpServer
from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

DOOR = {
    "host": "c1",
    "port": 22,
    "host_key_alias": "alice.dev.berth",
    "known_hosts": [],
    "login": "berth-web",
    "certificate": "x",
}


class _BusyController:
    """Answers the lists of browsers only when it is released, and other calls at once."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.waiting: Counter[str] = Counter()

    async def browsers(self, request: Request) -> Response:
        self.waiting[request.headers[DELEGATION_HEADER]] += 1
        await self.released.wait()
        return JSONResponse({"browsers": []})

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/web/browsers", self.browsers),
                Route("/v1/web/door", lambda _: JSONResponse(DOOR), methods=["POST"]),
                Route("/v1/web/visits/check", lambda _: JSONResponse({"visit_ids": []}), methods=["POST"]),
            ]
        )


def test_login_has_a_share_of_the_calls_and_doors_do_not_wait(tmp_path: Path) -> None:
    async def whole() -> None:
        controller = _BusyController()
        logins = [f"login-{number}" for number in range(MAX_USER_CALLS // MAX_CALLS_PER_LOGIN + 1)]
        async with UnixHttpServer(tmp_path / "s", controller.app(), lambda _: True), asyncio.timeout(DEADLINE_S):
            client = WebControllerClient(tmp_path / "s")
            calls = [
                asyncio.create_task(client.call("GET", "/v1/web/browsers", BrowserList, delegation=login))
                for login in logins
                for _ in range(2 * MAX_CALLS_PER_LOGIN)
            ]
            while controller.waiting.total() < MAX_USER_CALLS:  # noqa: ASYNC110 - the server's requests set no Event
                await asyncio.sleep(0.01)
            assert controller.waiting == dict.fromkeys(logins[:-1], MAX_CALLS_PER_LOGIN)
            assert (await client.door(DoorRequest(visit=new_id(), public_key="x"))).port == 22
            assert await client.valid_visits([new_id()]) == set()
            controller.released.set()
            await asyncio.gather(*calls)
            assert controller.waiting.total() == len(calls)

    asyncio.run(whole())
