"""A service in a browser can be reached only by the browser that entered, by its cookie, at that host."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from broker.errors import ConflictError
from tests.deadlines import DEADLINE_S
from tests.fakes.raw_http import request
from tests.fakes.web_world import NAVIGATION, OWN_PAGE, Entered, WebWorld, cookie_of, play_web


def test_browser_that_entered_reaches_its_service() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered(path="/tree?a=%2F")
        answer = await world.get(browser, "/api/x?y=%20z")
        assert answer.status == 200
        assert answer.body.startswith(b"GET /api/x?y=%20z HTTP/1.1\r\n")

    play_web(scene)


def test_cookie_opens_one_host_and_no_other() -> None:
    async def scene(world: WebWorld) -> None:
        one, other = await world.entered("echo"), await world.entered("other")
        hosts = [world.host("echo"), world.host("other"), world.host("third"), "portal.apps.localhost", "localhost"]
        for browser in (one, other):
            for host in hosts:
                headers = OWN_PAGE | world.cookie(browser)
                answer = await world.ask(request("GET", "/x", world.authority(host), headers))
                assert (answer.status == 200) == (host == browser.host), (browser.host, host, answer)
        for service in world.services.values():
            assert len(service.heads) == 1

    play_web(scene)


@pytest.mark.parametrize("cookie", ["", "x" * 43, '"{}"', "{}x"])
def test_other_cookies_open_nothing(cookie: str) -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wrong = Entered(browser.visit, cookie.format(browser.cookie))
        assert (await world.get(wrong, "/x")).status == 403
        assert (await world.websocket(wrong))[0].status == 403
        assert not world.echo.heads
        assert (await world.get(browser, "/y")).status == 200

    play_web(scene)


def test_code_is_for_one_use_one_host_and_one_browser() -> None:
    async def scene(world: WebWorld) -> None:
        visit = world.visit()
        first = await world.navigate(visit.host)
        entry = cookie_of(first, "__Host-Http-berth-entry")
        proof = parse_qs(urlsplit(first.header("location")).query)["entry"][0]

        async def enter(code: str, cookie: str, host: str = visit.host) -> int:
            headers = {"Cookie": f"__Host-Http-berth-entry={cookie}"} if cookie else {}
            return (await world.navigate(host, f"/.berth/enter?code={code}&path=/", **headers)).status

        assert await enter("x" * 43, entry) == 403
        assert await enter(world.gateway.entrances.admit(visit, proof), "") == 403
        assert await enter(world.gateway.entrances.admit(visit, proof), "y" * 43) == 403
        assert await enter(world.gateway.entrances.admit(visit, proof), entry, world.host("other")) == 403
        code = world.gateway.entrances.admit(visit, proof)
        assert await enter(code, entry) == 303
        assert await enter(code, entry) == 403

    play_web(scene)


def test_code_of_an_ended_visit_opens_nothing() -> None:
    async def scene(world: WebWorld) -> None:
        visit = world.visit()
        first = await world.navigate(visit.host)
        entry = cookie_of(first, "__Host-Http-berth-entry")
        proof = parse_qs(urlsplit(first.header("location")).query)["entry"][0]
        code = world.gateway.entrances.admit(visit, proof)
        await world.close(delegation_ids=[visit.delegation_id])
        cookie = f"__Host-Http-berth-entry={entry}"
        answer = await world.navigate(visit.host, f"/.berth/enter?code={code}&path=/", Cookie=cookie)
        assert answer.status == 403

    play_web(scene)


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nX: y", ""])
def test_way_in_leads_to_a_path_of_the_same_origin(path: str) -> None:
    async def scene(world: WebWorld) -> None:
        quoted = "".join(f"%{byte:02x}" for byte in path.encode())
        answer = await world.navigate(world.host(), f"/.berth/enter?code=x&path={quoted}")
        assert answer.status in {403, 422}
        assert not answer.header("location")

    play_web(scene)


def test_only_navigations_are_led_to_the_portal() -> None:
    async def scene(world: WebWorld) -> None:
        host = world.authority(world.host())
        assert (await world.ask(request("GET", "/", host, NAVIGATION))).status == 303
        frame = NAVIGATION | {"Sec-Fetch-Dest": "iframe"}
        assert (await world.ask(request("GET", "/", host, frame))).status == 403
        assert (await world.ask(request("POST", "/", host, NAVIGATION, b"x"))).status == 403
        assert (await world.ask(request("GET", "/", host, OWN_PAGE))).status == 403

    play_web(scene)


def test_service_that_starts_shows_its_progress_and_then_itself() -> None:
    async def scene(world: WebWorld) -> None:
        (world.place / "echo.slow").touch()
        browser = await world.enter(world.visit())
        cookie = world.cookie(browser)
        answer = await world.navigate(browser.host, **cookie)
        assert answer.status == 202
        assert b"the service echo begins" in answer.body
        waiting = await world.get(browser)
        assert (waiting.status, waiting.header("retry-after")) == (503, "2")
        assert (await world.websocket(browser))[0].status == 503
        (world.place / "echo.slow").unlink()
        assert (await world.navigate(browser.host, "/a?b", **cookie)).header("location") == "/a?b"
        assert (await world.get(browser)).status == 200

    play_web(scene)


def test_session_that_is_not_there_says_so() -> None:
    async def scene(world: WebWorld) -> None:
        world.controller.refusal = ConflictError("dev is stopped", hint="start it")
        browser = await world.enter(world.visit())
        answer = await world.navigate(browser.host, **world.cookie(browser))
        assert answer.status == 409
        assert b"dev is stopped" in answer.body.lower()
        refused, _ = await world.websocket(browser)
        assert (refused.status, refused.header("retry-after")) == (503, "2")

    play_web(scene)


@pytest.mark.parametrize("fault", ["refused", "broken"])
def test_service_that_fails_shows_why(fault: str) -> None:
    async def scene(world: WebWorld) -> None:
        (world.place / f"echo.{fault}").touch()
        browser = await world.enter(world.visit())
        answer = await world.navigate(browser.host, **world.cookie(browser))
        assert answer.status in {409, 500}
        assert {"refused": b"there is no service echo", "broken": b"no such program"}[fault] in answer.body

    play_web(scene)


def test_another_host_key_is_refused() -> None:
    async def scene(world: WebWorld) -> None:
        real = world.controller.door
        world.controller.door = lambda visit, key: real(visit, key).model_copy(
            update={"host_key_alias": "bob.dev.berth"}
        )
        browser = await world.enter(world.visit())
        answer = await world.navigate(browser.host, **world.cookie(browser))
        assert answer.status == 500
        assert b"no connection to the session" in answer.body.lower()
        assert not (world.place / "commands").exists()

    play_web(scene)


def test_session_has_one_tunnel_for_all_browsers_and_services() -> None:
    async def scene(world: WebWorld) -> None:
        browsers = [await world.entered(service) for service in ("echo", "other", "echo")]
        assert [(await world.get(browser)).status for browser in browsers] == [200] * 3
        assert world.controller.doors == 1
        assert (world.place / "commands").read_text().split("\n") == ["start echo", "start other", ""]

    play_web(scene)


def test_second_way_in_of_a_browser_keeps_its_cookie() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        proof = "0" * 64
        code = world.gateway.entrances.admit(browser.visit, proof)
        answer = await world.navigate(
            browser.host, f"/.berth/enter?code={code}&path=/", Cookie=f"__Host-Http-berth={browser.cookie}"
        )
        assert answer.status == 303  # the code needs the entry cookie, but this browser is in already
        assert not any(line.startswith("__Host-Http-berth=") for line in answer.headers_of("set-cookie"))
        assert (await world.get(browser)).status == 200
        async with asyncio.timeout(DEADLINE_S):
            while not world.settings.grants_file.exists():  # noqa: ASYNC110 - it is written by a thread
                await asyncio.sleep(0.02)
        grants = json.loads(world.settings.grants_file.read_bytes())
        assert len(grants) == 1
        assert browser.cookie not in world.settings.grants_file.read_text()
        assert world.settings.grants_file.stat().st_mode & 0o777 == 0o600

    play_web(scene)


def test_idle_tunnel_is_closed_and_opened_again() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        tunnels, doors = world.settings.tunnels, world.controller.doors
        async with asyncio.timeout(DEADLINE_S):
            while any(tunnels.iterdir()):  # noqa: ASYNC110 - ssh sets no Event
                await asyncio.sleep(0.05)
            # 202 is a page that shows the progress: a loaded machine connects slowly.
            while (answer := await world.navigate(browser.host, **world.cookie(browser))).status == 202:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert answer.status == 303
        assert (await world.get(browser)).status == 200
        assert world.controller.doors > doors

    play_web(scene, idle_tunnel=1.0)


def test_open_websocket_keeps_the_tunnel() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        _, wire = await world.websocket(browser)
        doors = world.controller.doors  # a loaded machine may have idled before
        await asyncio.sleep(2.5)  # more than two looks, and the limit
        await wire.send(b"hello")
        assert await wire.exactly(5) == b"hello"
        assert world.controller.doors == doors

    play_web(scene, idle_tunnel=1.0)
