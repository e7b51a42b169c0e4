"""`berth web` itself: how it starts, reloads and ends, and what its log has."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml

from broker.web.grants import Grant, GrantStore
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.raw_http import request
from tests.fakes.web_world import NAVIGATION, OWN_PAGE, WebWorld, web_world
from tests.processes import process_state, process_tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class WebProcess:
    """The process, and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def says(self, text: str) -> None:
        async with asyncio.timeout(DEADLINE_S), self._news:
            await self._news.wait_for(lambda: text in self.said)

    async def ends(self) -> int:
        """Its exit status, when its children have ended too: they have its standard error."""
        async with asyncio.timeout(DEADLINE_S):
            await self._reading
            return await self.process.wait()

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            async with self._news:
                self.said += line.decode()
                self._news.notify_all()


@contextlib.asynccontextmanager
async def _started(world: WebWorld, **web: object) -> AsyncIterator[WebProcess]:
    """The process; it is ended with the block."""
    config = world.place / "config.yaml"
    usual = {
        "url": world.settings.origins.url(world.settings.origins.domain),
        "listen": f"127.0.0.1:{world.port}",
        "runtime_dir": str(world.settings.directory),
    }
    config.write_text(yaml.safe_dump({"mode": "site", "runtime_dir": str(world.place), "web": usual | web}))
    made = WebProcess(
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "broker.cli", "web"),
            env=os.environ | {"BERTH_CONFIG": str(config)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    )
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            made.process.terminate()
        await made.ends()


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
        async with _started(world) as made:
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
        async with _started(world) as made:
            await made.says("ready:")
            family = process_tree(made.process.pid)
            assert len(family) > 2
            made.process.kill()
            await made.ends()
            async with asyncio.timeout(DEADLINE_S):
                while not {process_state(pid) for pid in family} <= {"X", "Z"}:  # noqa: ASYNC110 - they are no children
                    await asyncio.sleep(0.02)
        async with _started(world) as made:
            await made.says("ready:")

    _play(scene)


def test_second_process_is_refused() -> None:
    async def scene(world: WebWorld) -> None:
        async with _started(world) as first:
            await first.says("ready:")
            async with _started(world) as second:
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
        async with _started(world, **web) as made:
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
        async with _started(world) as made:
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
        async with _started(world) as made:
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
