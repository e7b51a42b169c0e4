"""The metrics of berth-web: visits, requests, tunnels, refusals and revocations."""

from __future__ import annotations

import asyncio
import re
import urllib.error
from typing import TYPE_CHECKING

from tests.fakes.openssh import free_port
from tests.fakes.scrape import scrape
from tests.fakes.web_world import NAVIGATION, play_web

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fakes.scrape import Samples
    from tests.fakes.web_world import WebWorld


def test_what_browsers_do_is_counted() -> None:
    port = free_port()

    async def scene(world: WebWorld) -> None:
        before = await asyncio.to_thread(scrape, port)

        async def risen(name: str, *labels: str) -> float:
            return (await asyncio.to_thread(scrape, port))[name, labels] - before.get((name, labels), 0)

        browser = await world.entered()
        await world.websocket(browser)
        after = await asyncio.to_thread(scrape, port)
        assert {name: after[f"berth_web_{name}", ()] for name in ("grants", "tunnels", "connections")} == {
            "grants": 1,
            "tunnels": 1,
            "connections": after["berth_web_connections", ()],
        }
        assert after["berth_web_connections", ()] >= 1
        assert after["berth_web_services", ("ready",)] == 1
        assert await risen("berth_web_visits_total") == 1
        assert await risen("berth_web_tunnel_connect_duration_seconds_count", "open") == 1
        assert await risen("berth_web_requests_total", "2xx") >= 1
        assert await risen("berth_web_bytes_total", "sent") > 100

        for headers in ({}, world.cookie(browser)):  # by a rule for all hosts, and by one for those with a grant
            denied = await risen("berth_web_denied_requests_total")
            method = "GET" if headers else "TRACE"
            answer = await world.send(browser, method, "/", headers | {"Origin": "https://attacker.test"})
            assert answer.status in {403, 405}
            assert await risen("berth_web_denied_requests_total") == denied + 1

        refused = await world.navigate(world.host(), "/.berth/enter?code=wrong")
        assert refused.status == 403
        assert await risen("berth_web_refusals_total", "refused") == 1

        await world.close(visit_ids=[browser.visit.id])
        assert await risen("berth_web_revocation_duration_seconds_count") == 1
        assert await risen("berth_web_requests_total", "1xx") == 1
        after = await asyncio.to_thread(scrape, port)
        assert (after["berth_web_grants", ()], after["berth_web_tunnels", ()]) == (0, 0)
        assert not any(re.search("alice|dev|echo", label) for _, labels in after for label in labels)

    play_web(scene, metrics_listen=("127.0.0.1", port))


def test_counters_outlive_a_reload() -> None:
    port = free_port()

    async def scene(world: WebWorld) -> None:
        for _ in range(3):
            assert (await world.navigate(world.host())).status == 303
        await until(port, lambda samples: samples["berth_web_requests_total", ("3xx",)] == 3)
        await world.gateway.haproxy.reload()
        assert (await world.navigate(world.host())).status == 303
        await until(port, lambda samples: samples["berth_web_requests_total", ("3xx",)] == 4)

    play_web(scene, metrics_listen=("127.0.0.1", port))


def test_taken_port_keeps_no_browser_out() -> None:
    async def scene(world: WebWorld) -> None:
        assert (await world.navigate(world.host(), **NAVIGATION)).status == 303

    async def whole() -> int:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        await asyncio.to_thread(play_web, scene, metrics_listen=("127.0.0.1", port))
        server.close()
        return port

    asyncio.run(whole())


async def until(port: int, wanted: Callable[[Samples], bool]) -> None:
    """Wait until the metrics are so; play_web ends what takes too long."""
    while True:
        try:
            if wanted(await asyncio.to_thread(scrape, port)):
                return
        except (urllib.error.URLError, KeyError):
            pass
        await asyncio.sleep(0.05)
