"""HTTP/2 as browsers speak it with TLS: requests, cookies in pieces, and WebSockets in a stream (RFC 8441)."""

from __future__ import annotations

from tests.component.web.http2 import DATA, ENABLE_CONNECT_PROTOCOL, connect_http2, http2_frame, http2_request
from tests.fakes.web_world import WebWorld, play_web


def test_requests_and_cookies_in_pieces() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        h2 = await connect_http2(world, browser)
        ours, page = ("cookie", f"__Host-Http-berth={browser.cookie}"), ("sec-fetch-site", "same-origin")
        pieces = [("cookie", "a=1"), ours, ("cookie", "b=%20"), page, ("x-forwarded-for", "10.0.0.1")]
        assert await h2.status(await h2.send(http2_request(world, browser, "GET", "/a", *pieces))) == 200
        head = world.echo.heads[-1]
        assert head.startswith(b"GET /a HTTP/1.1\r\n")
        assert b"\r\ncookie: a=1; b=%20\r\n" in head
        assert b"10.0.0.1" not in head
        assert await h2.status(await h2.send(http2_request(world, browser, "GET", "/b", ours, ours, page))) == 400
        assert await h2.status(await h2.send(http2_request(world, browser, "GET", "/b", page))) == 403
        assert await h2.status(await h2.send(http2_request(world, browser, "TRACE", "/b", ours, page))) == 405
        assert len(world.echo.heads) == 1
        other = ("host", "other--dev--alice.apps.localhost")
        assert await h2.status(await h2.send(http2_request(world, browser, "GET", "/c", ours, page, other))) == 200
        assert world.echo.heads[-1].count(b"\r\nhost: ") == 1
        assert b"other--dev" not in world.echo.heads[-1], "the authority decides"

    play_web(scene, tls=True)


def test_malformed_requests_are_refused() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        ours, page = ("cookie", f"__Host-Http-berth={browser.cookie}"), ("sec-fetch-site", "same-origin")
        own = ("origin", world.origin(browser.host))
        for more in (
            ("x-a", "b\r\nx-real-ip: 10.0.0.1"),
            ("x-a", "b\0c"),
            ("X-Upper", "a"),
            ("x a", "b"),
            ("x-a:", "b"),
            ("transfer-encoding", "chunked"),
            ("connection", "x-forwarded-for"),
            ("connection", "keep-alive"),
            ("upgrade", "h2c"),
            (":path", "/second"),
            (":authority", "other--dev--alice.apps.localhost"),
            ("content-length", "5"),
        ):
            h2 = await connect_http2(world, browser)
            headers = http2_request(world, browser, "POST", "/a", ours, page, own, more)
            assert await h2.status(await h2.send(headers, data=b"abc")) in {0, 400, 403}, more
        for path in ("a", "/a b", "/a\r\nX: y", "/a\0", "https://other--dev--alice.apps.localhost/", ""):
            h2 = await connect_http2(world, browser)
            assert await h2.status(await h2.send(http2_request(world, browser, "GET", path, ours, page))) in {0, 400}, (
                path
            )
        assert not [head for head in world.echo.heads if b"/a HTTP/1.1" not in head]
        assert not [head for head in world.echo.heads if b"10.0.0.1" in head or b"other--dev" in head]

    play_web(scene, tls=True)


def test_websocket_in_a_stream_is_checked_and_closed_as_any() -> None:
    async def scene(world: WebWorld) -> None:
        browser = await world.entered()
        h2 = await connect_http2(world, browser)
        assert h2.settings[ENABLE_CONNECT_PROTOCOL] == 1
        ours, protocol = ("cookie", f"__Host-Http-berth={browser.cookie}"), (":protocol", "websocket")
        version = ("sec-websocket-version", "13")

        async def open_stream(origin: str) -> int:
            request = http2_request(world, browser, "CONNECT", "/ws", protocol, ours, version, ("origin", origin))
            return await h2.send(request, ends=False)

        assert await h2.status(await open_stream(world.origin(world.host("other")))) == 403
        assert not world.echo.heads
        stream = await open_stream(world.origin(browser.host))
        assert await h2.status(stream) == 200
        await h2.wire.send(http2_frame(DATA, 0, stream, b"hello"))
        assert await h2.data(stream, 5) == b"hello"
        await world.close(visit_ids=[browser.visit.id])
        assert await h2.ends(stream)
        page = ("sec-fetch-site", "same-origin")
        assert await h2.status(await h2.send(http2_request(world, browser, "GET", "/x", ours, page))) in {0, 403}

    play_web(scene, tls=True)
