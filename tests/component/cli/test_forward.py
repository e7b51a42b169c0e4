"""`berth forward`: with the real ssh and sshd, the real program of a session, and a server on a port."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING

import pytest

from broker.schema.states import SessionState
from tests.fakes import openssh
from tests.fakes.controller import view
from tests.fakes.port_server import port_server
from tests.fakes.session_login import berth_inside, fetch_page, opened_locally, reachable_session
from tests.fakes.session_services import SessionDirectories

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fakes.controller import ScriptedController


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[SessionDirectories]:
    with SessionDirectories(tmp_path / "inside") as directories:
        directories.declare()
        yield directories


def test_published_port_is_listed_opened_and_removed(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    async def scene(port: int) -> None:
        async def berth(*words: str) -> openssh.Finished:
            return await openssh.run(berth_inside(inside, *words))

        async with reachable_session(controller, tmp_path):
            name = f"port-{port}"
            done = await berth("forward", "dev", str(port), "--title", "My page")
            assert (done.code, done.out.decode()) == (0, f"{name}\n"), done.err
            assert f"`berth open dev {name} --local` opens localhost:{port} of dev in your browser\n" in done.err
            services = json.loads((await berth("services", "dev", "--json")).out)["services"]
            assert [(each["title"], each["own"]) for each in services if each["name"] == name] == [("My page", True)]
            async with opened_locally(inside, name) as (_, url):
                assert await asyncio.to_thread(fetch_page, url) == (200, f"served by {os.getuid()}\n")
            ports = json.loads((await berth("forward", "dev", "--json")).out)["ports"]
            assert ports == [{"service": name, "title": "My page", "state": "ready"}]
            assert f"{name}  My page  ready" in (await berth("forward", "dev")).out.decode()
            removed = await berth("forward", "dev", str(port), "--remove")
            assert removed.code == 0
            assert removed.err == f"port {port} of dev is published no longer; your server keeps running\n"
            assert "dev has no published ports" in (await berth("forward", "dev")).err
            again = await berth("forward", "dev", str(port), "--remove")
            assert (again.code, f"port {port} of dev is not published" in again.err) == (3, True)

    with port_server(tmp_path / "got") as server:
        asyncio.run(scene(server.port))


def test_site_with_web_access_names_the_short_command(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with reachable_session(controller, tmp_path):
            controller.site = controller.site.model_copy(update={"portal_url": "https://portal.apps.example.org"})
            done = await openssh.run(berth_inside(inside, "forward", "dev", "8000"))
            assert "`berth open dev port-8000` opens" in done.err
            answer = json.loads((await openssh.run(berth_inside(inside, "forward", "dev", "8001", "--json"))).out)
            assert answer == {"service": "port-8001", "title": "Port 8001", "path": f"{inside.base}/web/port-8001.sock"}

    asyncio.run(scene())


def test_refusals_of_the_session_are_explained(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    file = inside.program
    text = file.read_text()

    async def refused(verb: str, *words: str) -> str:
        file.write_text(f"[[ $1 != {verb} ]] || {{ echo refused no luck; exit 1; }}\n{text}")
        done = await openssh.run(berth_inside(inside, "forward", "dev", "8000", *words))
        assert (done.code, done.out) == (1, b"")
        assert "hint: `berth services dev` lists its services" in done.err
        file.write_text(text)
        return done.err

    async def scene() -> None:
        async with reachable_session(controller, tmp_path):
            assert "dev cannot start port-8000: no luck\n" in await refused("publish")
            assert (await openssh.run(berth_inside(inside, "forward", "dev", "8000"))).code == 0
            assert "berth: dev: no luck\n" in await refused("withdraw", "--remove")

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--title", "x"], "--title and --remove need a port"),
        (["--remove"], "--title and --remove need a port"),
        (["8000", "--remove", "--title", "x"], "exclude each other"),
        (["8000", "--title", "x" * 61], "one line of at most 60 characters"),
        (["8000", "--title", "a\nb"], "one line of at most 60 characters"),
        (["0"], "0 is not in the range 1<=x<=65535"),
        (["http"], "is not a valid integer"),
    ],
)
def test_wrong_requests_are_refused(
    controller: ScriptedController, inside: SessionDirectories, words: list[str], said: str
) -> None:
    controller.sessions["dev"] = view(state=SessionState.READY)
    done = asyncio.run(openssh.run(berth_inside(inside, "forward", "dev", *words)))
    assert (done.code, done.out) == (2, b"")
    assert said in done.err


def test_stopped_session_is_not_started(controller: ScriptedController, inside: SessionDirectories) -> None:
    controller.sessions["dev"] = view(state=SessionState.STOPPED)
    done = asyncio.run(openssh.run(berth_inside(inside, "forward", "dev", "8000")))
    assert done.code == 5
    assert "dev is stopped" in done.err
