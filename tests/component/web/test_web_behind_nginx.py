"""The site's nginx in front, with the configuration of docs/howto/site.md."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import grp
import os
import re
import shutil
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from broker.origins import Origins
from tests.deadlines import DEADLINE_S, TEST_DEADLINE_S
from tests.fakes.openssh import free_port
from tests.fakes.raw_http import connect, request
from tests.fakes.web_world import DOMAIN, OWN_PAGE, WebWorld, make_certificate, web_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SITE = Path(__file__).parents[3] / "docs" / "howto" / "site.md"


@contextlib.asynccontextmanager
async def _nginx(world: WebWorld, port: int) -> AsyncIterator[None]:
    """nginx with the page's block, and this test's names, ports and files."""
    block = re.search(r"^```nginx\n(.*?)^```", SITE.read_text(), re.MULTILINE | re.DOTALL)
    assert block
    text = re.sub(r" *http2 on;.*\n", "", block[1])  # unknown to nginx before 1.25.1
    for usual, here in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "apps.example.org": DOMAIN,
        "/etc/ssl/apps/fullchain.pem": str(world.place / "front.pem"),
        "/etc/ssl/apps/privkey.pem": str(world.place / "front.key"),
        "/run/berth-web/proxy/http.sock": str(world.settings.listen),
    }.items():
        assert usual in text
        text = text.replace(usual, here)
    place = world.place / "nginx"
    place.mkdir()
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    account = "user nobody nogroup; " if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(
        f"{account}daemon off; pid {place}/pid; error_log {place}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{text}}}\n"
    )
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert nginx, "install nginx"
    process = await asyncio.create_subprocess_exec(nginx, "-e", f"{place}/error.log", "-c", f"{place}/nginx.conf")
    try:
        async with asyncio.timeout(DEADLINE_S):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    (await connect(port)).close()
                    break
                await asyncio.sleep(0.02)
        assert process.returncode is None, (place / "error.log").read_text()
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _socket(place: Path) -> Path:
    """The path of berth-web's socket, in a directory as the page says: of the group of the site's nginx."""
    directory = place / "proxy"
    directory.mkdir()
    if os.geteuid() == 0:
        place.chmod(0o711)
        os.chown(directory, -1, grp.getgrnam("nogroup").gr_gid)
    directory.chmod(0o2750)
    return directory / "http.sock"


def test_page_and_websocket_and_events_pass_the_sites_nginx() -> None:
    async def scene(world: WebWorld, port: int) -> None:
        assert isinstance(world.settings.listen, Path)
        made = world.settings.listen.stat()
        assert stat.S_IMODE(made.st_mode) == 0o660
        assert made.st_gid == world.settings.listen.parent.stat().st_gid
        browser = await world.entered()
        host, tls = f"{browser.host}:{port}", ssl.create_default_context(cafile=str(world.place / "front.pem"))
        ours = world.cookie(browser)

        page = await connect(port, tls, browser.host)
        await page.send(request("GET", "/a?b=%2F", host, OWN_PAGE | ours | {"X-Forwarded-For": "10.9.9.9"}))
        answer = await page.answer()
        assert answer.status == 200
        assert answer.body.startswith(b"GET /a?b=%2F HTTP/1.1\r\n")
        assert b"x-forwarded-for: 127.0.0.1\r\n" in answer.body
        assert b"x-forwarded-proto: https\r\n" in answer.body

        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        for origin, status in {f"https://{host}": 101, "https://other--dev--alice.apps.localhost": 403}.items():
            socket = await connect(port, tls, browser.host)
            await socket.send(request("GET", "/ws", host, upgrade | ours | {"Origin": origin}))
            assert (await socket.head()).status == status
            if status == 101:
                await socket.send(b"hello")
                assert await socket.exactly(5) == b"hello"
            socket.close()

        events = await connect(port, tls, browser.host)
        await events.send(request("GET", "/events", host, OWN_PAGE | ours))
        assert (await events.head()).status == 200
        for number in range(3):
            await world.echo.events.put(b"data: %d\n\n" % number)
            assert await events.exactly(14) == b"9\r\ndata: %d\n\n\r\n" % number
        page.close()
        events.close()

    async def whole() -> None:
        async with asyncio.timeout(TEST_DEADLINE_S), web_world() as world:
            port = free_port()
            make_certificate(world.place / "front.pem", DOMAIN)
            world.settings = dataclasses.replace(
                world.settings, origins=Origins.parse(f"https://{DOMAIN}:{port}"), listen=_socket(world.place)
            )
            async with world.serving(), _nginx(world, port):
                await scene(world, port)

    asyncio.run(whole())
