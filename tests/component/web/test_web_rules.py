"""HAProxy's rules for requests, before one reaches a service: refusals and changes."""

from __future__ import annotations

import asyncio

import pytest

from tests.deadlines import DEADLINE_S
from tests.fakes.raw_http import request
from tests.fakes.web_world import NAVIGATION, OWN_PAGE, WebWorld, play_web

TRUSTED = [
    *("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-User", "X-Real-IP"),
    *("X-Forwarded-Uri", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Preferred-Username", "Proxy"),
    *("X-Original-URL", "X-Original-Host", "X-Original-Forwarded-For", "X-Rewrite-URL", "X-Client-IP", "X-Client-Cert"),
    *("X-Remote-User", "Remote-User", "Remote-Addr", "X-Auth-Request-User", "X-Auth-User", "X-Authenticated-User"),
    *("X-User", "X-Username", "X-Email", "X-Groups", "X-Role", "X-Host", "X-Scheme", "X-Script-Name", "X-Berth-Grant"),
    *(
        "X-Berth-Address",
        "Berth-Delegation",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Cluster-Client-IP",
        "SSL-Client-Cert",
    ),
    *("Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "TE", "X-WebAuth-User", "X-Goog-IAP-JWT-Assertion"),
    *("Tailscale-User-Login", "X-MS-Client-Principal", "X-Pomerium-Jwt-Assertion", "X-Accel-Redirect", "X-SSL-Cert"),
]
"""Headers by which some proxy tells some server who the client is, or where it comes from."""


def test_no_cookie_of_ours_reaches_a_service_and_others_do_as_they_are() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        ours = f"__Host-Http-berth={browser.cookie}"
        entry = "__Host-Http-berth-entry=abc"
        others = 'a=1; _xsrf=2|ab%20c%2F; b="x y"; c=; =d; e=f=g'
        for sent, arrives in {
            ours: None,
            f"{ours}; {others}": others,
            f"{others}; {ours}": others,
            f"a=1; {ours}; {entry}; b=%20": "a=1; b=%20",
            f"{entry}; {ours}": None,
            f"a=1;{ours};b=2": "a=1;b=2",
            f"a=1;\t{ours}; b=2": "a=1; b=2",
            f"\t{entry}; b=2;{ours}": "b=2",
            f"name=J\xfcrgen; {ours}": "name=J\xfcrgen",
            f'{ours}; __HOST-http-BERTH-portal="x"; z': "z",
            f"{ours}; __Host-other=1; x__Host-Http-berth=2": "__Host-other=1; x__Host-Http-berth=2",
        }.items():
            answer = await world.get(browser, "/c", Cookie=sent)
            assert answer.status == 200, sent
            lines = [line for line in answer.body.decode("latin-1").split("\r\n") if line.lower().startswith("cookie:")]
            assert lines == ([] if arrives is None else [f"cookie: {arrives}"]), sent

    play_web(scene)


def test_cookie_that_somebody_could_take_for_ours_is_refused() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        ours = f"__Host-Http-berth={browser.cookie}"
        portal = world.authority("portal.apps.localhost")
        for end in ("", "-entry", "-portal", "-oidc"):
            name = f"__Host-Http-berth{end}"
            for cookie in (
                f"{name}=a; {name}=b",
                f"\xa0{name}=a",
                f"a=1; \x85{name}=a",
                f"\x0b{name}=a",
                f"x\xa0{name}=a",
            ):
                for host in (world.authority(browser.host), portal):
                    assert (await world.ask(request("GET", "/", host, OWN_PAGE | {"Cookie": cookie}))).status == 400
            if name != "__Host-Http-berth":
                assert (await world.get(browser, "/", Cookie=f"{ours}; {name}=a; {name}=b")).status == 400
        assert not world.echo.heads
        assert (await world.get(browser, "/", Cookie=f"{ours}; __Host-Http-berth-portal=a")).status == 200

    play_web(scene)


def test_headers_that_vouch_for_somebody_are_removed_and_change_nothing() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        plain = {"X-CSRFToken": "a", "Authorization": "token b", "X-Requested-With": "XMLHttpRequest", "Accept": "*/*"}
        names = [*TRUSTED, *(name.replace("-", "_") for name in TRUSTED if "-" in name)]
        for first in range(0, len(names), 20):
            vouching = dict.fromkeys(names[first : first + 20], "127.0.0.2")
            answer = await world.get(browser, "/t", **vouching, **plain)
            received = dict(line.split(": ", 1) for line in answer.body.decode().split("\r\n")[1:] if line)
            for name, value in plain.items():
                assert received.pop(name.lower()) == value
            assert received.pop("x-forwarded-for") == "127.0.0.1"
            assert received.pop("x-forwarded-proto") == "http"
            assert set(received) == {"host", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"}
            stranger = await world.ask(request("GET", "/", world.authority(browser.host), OWN_PAGE | vouching))
            assert stranger.status == 403

    play_web(scene)


SAME, SIBLING, CROSS, USER = "same-origin", "same-site", "cross-site", "none"
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FETCH = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
FRAME = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
IMAGE = {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_pages_of_other_origins_can_only_link(scheme: str) -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        own, sibling = world.origin(browser.host), world.origin(world.host("other"))
        cases: list[tuple[str, dict[str, str], bool]] = [
            ("GET", {"Sec-Fetch-Site": USER} | LINK, True),
            ("GET", {"Sec-Fetch-Site": SAME} | FETCH, True),
            ("GET", {"Sec-Fetch-Site": SAME} | FRAME, True),
            ("GET", {"Sec-Fetch-Site": SIBLING} | LINK, True),
            ("GET", {"Sec-Fetch-Site": CROSS} | LINK, True),
            ("POST", {"Sec-Fetch-Site": SAME, "Origin": own} | FETCH, True),
            ("DELETE", {"Sec-Fetch-Site": SAME, "Origin": own} | FETCH, True),
            ("POST", {"Sec-Fetch-Site": SAME, "Origin": "null"} | LINK, True),
            ("POST", {"Sec-Fetch-Site": SAME} | FETCH, True),
            *((verb, {"Sec-Fetch-Site": site} | kind, False) for verb in ("GET", "POST", "PUT")
              for site in (SIBLING, CROSS) for kind in (FETCH, FRAME, IMAGE)),
            *(("POST", {"Sec-Fetch-Site": site, "Origin": origin} | LINK, False)
              for site in (SIBLING, CROSS, USER) for origin in (sibling, "null", "https://evil.example")),
            ("POST", {"Sec-Fetch-Site": CROSS, "Origin": own} | LINK, False),
            ("POST", {"Origin": sibling}, False),
            ("POST", {}, False),
            ("PATCH", {"Origin": own.replace("echo", "Echo")} | FETCH, False),
            ("POST", {"Origin": f"{own}0"}, False),
            ("POST", {"Origin": f"{own}/"}, False),
            ("OPTIONS", {"Sec-Fetch-Site": SIBLING, "Origin": sibling} | FETCH, False),
            ("GET", {"Sec-Fetch-Site": SIBLING, "Origin": sibling} | FETCH, False),
            ("GET", {"Origin": "null"}, False),
            ("GET", {}, scheme == "http"),
        ]  # fmt: skip
        for method, headers, reaches in cases:
            before = len(world.echo.heads)
            answer = await world.send(browser, method, "/o", headers)
            assert (answer.status == 200, len(world.echo.heads) > before) == (reaches, reaches), (method, headers)

    play_web(scene, tls=scheme == "https")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_websocket_needs_the_exact_origin(scheme: str) -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        own = world.origin(browser.host)
        other = "https://" if scheme == "http" else "http://"
        for origin in ("", "null", world.origin(world.host("other")), own.replace(f"{scheme}://", other), f"{own}1"):
            assert (await world.websocket(browser, Origin=origin))[0].status == 403, origin
        assert (await world.websocket(browser, **{"Sec-Fetch-Site": "cross-site"}))[0].status == 403
        assert not world.echo.heads
        answer, wire = await world.websocket(browser)
        assert answer.status == 101
        await wire.send(b"hello")
        assert await wire.exactly(5) == b"hello"

    play_web(scene, tls=scheme == "https")


def test_paths_of_berth_do_not_reach_a_service() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        for path in ("/.berth/", "/.berth/enter", "/.berth/x?y"):
            assert (await world.navigate(browser.host, path, **world.cookie(browser))).status in {303, 403, 422}
        assert not world.echo.heads

    play_web(scene)


def test_large_form_does_not_reach_the_portal() -> None:
    async def scene(world: WebWorld) -> None:
        portal = world.authority("portal.apps.localhost")
        assert (await world.ask(request("POST", "/login", portal, NAVIGATION, b"x" * 70_000))).status == 413
        chunked = b"POST /login HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" % portal.encode()
        assert (await world.ask(chunked)).status == 413
        small = await world.ask(request("POST", "/login", portal, NAVIGATION, b"x" * 60))
        assert small.status == 403, "the portal's answer"

    play_web(scene)


def test_events_come_one_by_one_and_the_clients_end_is_seen() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wire = await world.wire()
        await wire.send(request("GET", "/events", world.authority(browser.host), OWN_PAGE | world.cookie(browser)))
        assert (await wire.head()).header("content-type") == "text/event-stream"
        for number in range(5):
            await world.echo.events.put(b"data: %d\n\n" % number)
            assert await wire.exactly(14) == b"9\r\ndata: %d\n\n\r\n" % number
        wire.close()
        async with asyncio.timeout(DEADLINE_S):
            while world.echo.open:
                await world.echo.events.put(b"data: x\n\n")  # so that the service's end is written to
                await asyncio.sleep(0.02)

    play_web(scene)


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_upload_reaches_the_service_while_it_is_sent(framing: str) -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        wire = await world.wire()
        length = {"Content-Length": str(2**20 + 10)} if framing == "length" else {"Transfer-Encoding": "chunked"}
        headers = OWN_PAGE | world.cookie(browser) | {"Origin": world.origin(browser.host)} | length
        await wire.send(request("POST", "/upload", world.authority(browser.host), headers))
        await wire.send(b"x" * 10 if framing == "length" else b"a\r\nxxxxxxxxxx\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await world.echo.body_begun.wait()
        rest = b"y" * 2**20
        await wire.send(rest if framing == "length" else b"%x\r\n%s\r\n0\r\n\r\n" % (len(rest), rest))
        assert (await wire.answer()).status == 200
        assert world.echo.bodies[-1] == 2**20 + 10

    play_web(scene)
