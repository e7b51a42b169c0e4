"""`berth web` itself: how it starts, reloads and ends, and what its log has."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from typing import TYPE_CHECKING

import httpx
import pytest

from broker.web.grants import Grant, GrantStore
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.raw_http import request
from tests.fakes.web_process import web_process
from tests.fakes.web_world import NAVIGATION, OWN_PAGE, WebWorld, web_world
from tests.processes import process_state, process_tree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _play(scene: Callable[[WebWorld], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), web_world() as world:
            try:
                await scene(world)
            finally:
                for wire in world.wires:
                    wire.close()

    asyncio.run(whole())


def test_process_serves_reloads_and_ends() -> None:
    async def scene(world: WebWorld) -> None:
        async with web_process(world) as made:
            await made.says("ready: http://portal.apps.localhost")
            assert (await world.navigate(world.host())).status == 303
            made.process.send_signal(signal.SIGHUP)
            await made.says("haproxy reloaded")
            assert (await world.navigate(world.host())).status == 303
            made.process.terminate()
            assert await made.ends() == 0
            assert "Traceback" not in made.said

    _play(scene)


def test_nothing_is_left_of_a_process_that_is_killed() -> None:
    async def scene(world: WebWorld) -> None:
        async with web_process(world) as made:
            await made.says("ready:")
            family = process_tree(made.process.pid)
            assert len(family) > 2
            made.process.kill()
            await made.ends()
            async with asyncio.timeout(DEADLINE_S):
                while not {process_state(pid) for pid in family} <= {"X", "Z"}:  # noqa: ASYNC110 - they are no children
                    await asyncio.sleep(0.02)
        async with web_process(world) as made:
            await made.says("ready:")

    _play(scene)


def test_second_process_is_refused() -> None:
    async def scene(world: WebWorld) -> None:
        async with web_process(world) as first:
            await first.says("ready:")
            async with web_process(world) as second:
                await second.says("berth-web runs already")
                assert await second.ends() == 5
            assert (await world.navigate(world.host())).status == 303

    _play(scene)


@pytest.mark.parametrize(
    ("web", "message"),
    [
        ({"url": None}, "this site has no web access"),
        ({"url": "https://apps.example.org", "listen": "0.0.0.0:8443"}, "there is no web.certificate"),
        ({"url": "https://apps.example.org", "listen": "127.0.0.1:8443"}, "there is no web.certificate"),
        (
            {"url": "https://apps.example.org", "listen": "/run/x.sock", "certificate": "/x.pem"},
            "there is a web.certificate",
        ),
        ({"listen": "/run/x y.sock"}, "the path of a socket"),
        ({"url": "https://apps.example.org", "certificate": "/nowhere.pem"}, "HAProxy refuses its configuration"),
        ({"runtime_dir": "/nowhere"}, "the runtime directory cannot be used"),
    ],
)
def test_process_says_what_it_misses(web: dict[str, object], message: str) -> None:
    async def scene(world: WebWorld) -> None:
        async with web_process(world, **web) as made:
            await made.says(message)
            assert await made.ends() != 0
            assert "Traceback" not in made.said

    _play(scene)


def test_log_has_no_secret() -> None:
    async def scene(world: WebWorld) -> None:
        cookie, visit = "secret-of-the-cookie", world.visit()
        key = f"{hashlib.sha256(cookie.encode()).hexdigest()}@{visit.host}"
        async with GrantStore(world.settings.grants_file) as store:
            store.add(Grant(key=key, visit=visit))
        async with web_process(world) as made:
            await made.says("ready:")
            ours = {"Cookie": f"__Host-Http-berth={cookie}"}
            host = world.authority(visit.host)
            for headers in (NAVIGATION | ours, OWN_PAGE | ours, {"Sec-Fetch-Site": "cross-site"} | ours):
                for path in ("/secret-in-a-path?token=secret-in-a-query", "/.berth/enter?code=secret-code&path=/"):
                    await world.ask(request("GET", path, host, headers))
            await world.ask(request("POST", "/secret-in-a-path", host, ours | {"Origin": "https://secret.example"}))
            async with httpx.AsyncClient(
                transport=httpx.AsyncHTTPTransport(uds=str(world.settings.control_socket))
            ) as client:
                assert (await client.post("http://x/v1/close", json={"visit_ids": [visit.id]})).status_code == 200
                assert (await client.post("http://x/v1/close", json={"visit_ids": ["x"]})).status_code == 422
                assert (await client.post("http://x/v1/close", json={})).status_code == 422
                assert (await client.post("http://x/v1/close", content=b"x" * 300_000)).status_code == 422
            await made.says("visit ended user=alice owner=alice session=dev service=echo")
            made.process.terminate()
            await made.ends()
        assert 'GET "echo--dev--alice.apps.localhost"' in made.said
        for secret in ("secret", cookie, key.partition("@")[0], visit.secret):
            assert secret not in made.said

    _play(scene)


def test_other_accounts_cannot_close_visits() -> None:
    async def scene(world: WebWorld) -> None:
        async with web_process(world) as made:
            await made.says("ready:")
            place = world.place
            for each in (place, world.settings.directory):
                each.chmod(0o711)
            for _ in range(3):
                stranger = await asyncio.create_subprocess_exec(
                    *("setpriv", "--reuid=65534", "--clear-groups", "curl", "-s", "-d", "{}"),
                    *("--unix-socket", world.settings.control_socket, "http://x/v1/close"),
                    stdout=asyncio.subprocess.PIPE,
                )
                answer, _ = await stranger.communicate()
                assert answer == b""
                assert stranger.returncode != 0, "the connection was closed without an answer"
            await made.says("connection refused uid=65534")
            made.process.terminate()
            await made.ends()
            assert made.said.count("connection refused") == 1

    _play(scene)
