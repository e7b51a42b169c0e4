"""`berth open --local` and `berth services`: with the real ssh and sshd, and the real program of a session."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from broker.schema.states import SessionState
from broker.schema.web import LinkAnswer
from profiles.recipe.service import Service
from tests.deadlines import DEADLINE_S
from tests.fakes import openssh, web_service
from tests.fakes.controller import view
from tests.fakes.session_login import berth_inside, fetch_page, opened_locally, reachable_session
from tests.fakes.session_services import SessionDirectories
from tests.processes import process_children

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.controller import ScriptedController

WEB = f"exec {sys.executable} {web_service.__file__}"


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[SessionDirectories]:
    with SessionDirectories(tmp_path / "inside") as directories:
        directories.declare(
            Service(name="web", title="A page", command=WEB, socket="web.sock"),
            Service(name="bad", command="echo no such port >&2; exit 3", socket="bad.sock"),
        )
        yield directories


def fetch_when_back(url: str) -> str:
    """Ask until the service is back; return its process id."""
    deadline = time.monotonic() + DEADLINE_S
    while (answer := fetch_page(url))[0] == 503:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return answer[1].split()[0]


def test_service_answers_at_the_printed_address_only(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with reachable_session(controller, tmp_path), opened_locally(inside, "web") as (process, url):
            parts = urlsplit(url)
            assert parts.hostname is not None
            assert parts.hostname.startswith("web-")
            assert parts.hostname.endswith(".localhost")
            status, text = await asyncio.to_thread(fetch_page, url, path="/a?b=c")
            assert (status, text.split()[1:]) == (200, [parts.netloc, "/a?b=c"])
            for other in (f"localhost:{parts.port}", f"127.0.0.1:{parts.port}", f"attacker.test:{parts.port}"):
                assert (await asyncio.to_thread(fetch_page, url, other))[0] == 421
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0
            assert process.stderr is not None
            said = (await process.stderr.read()).decode()
            assert f"ssh -N -L {parts.port}:127.0.0.1:{parts.port} " in said
            assert said.endswith("closed; A page keeps running in dev\n")
            with pytest.raises(ConnectionRefusedError):
                await asyncio.to_thread(fetch_page, url)

    asyncio.run(scene())
    pid = int((inside.base / "node/services/web/pid").read_text())
    assert process_children(pid)


def test_service_that_crashes_answers_again(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with reachable_session(controller, tmp_path), opened_locally(inside, "web", "--print") as (_, url):
            first = (await asyncio.to_thread(fetch_page, url))[1].split()[0]
            assert (await asyncio.to_thread(fetch_page, url, path="/crash"))[0] == 503
            assert await asyncio.to_thread(fetch_when_back, url) != first

    asyncio.run(scene())


def test_service_that_ends_by_itself_ends_the_command(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with reachable_session(controller, tmp_path), opened_locally(inside, "web") as (process, url):
            await asyncio.to_thread(fetch_page, url, path="/end")
            assert await process.wait() == 0
            assert process.stderr is not None
            assert (await process.stderr.read()).decode().endswith("A page has ended in dev\n")

    asyncio.run(scene())


def test_failing_service_is_explained_by_its_last_lines(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    async def scene() -> None:
        async with reachable_session(controller, tmp_path):
            done = await openssh.run(berth_inside(inside, "open", "dev", "bad", "--local"))
            assert (done.code, done.out) == (1, b"")
            assert "  no such port\n" in done.err
            assert "berth: bad did not start in dev: bad ended with code 3, 3 times in a row\n" in done.err
            missing = await openssh.run(berth_inside(inside, "open", "dev", "none", "--local"))
            assert missing.code == 3
            assert "its services: web, bad" in missing.err

    asyncio.run(scene())


def test_browser_that_stays_gets_its_page(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener, page = tmp_path / "bin/xdg-open", tmp_path / "page"
    opener.parent.mkdir()
    opener.write_text(
        f"#!{sys.executable}\nimport http.client, os, pathlib, sys\nfrom urllib.parse import urlsplit\n"
        "parts = urlsplit(sys.argv[1])\nasked = http.client.HTTPConnection('127.0.0.1', parts.port)\n"
        "asked.request('GET', '/', headers={'Host': parts.netloc})\n"
        f"pathlib.Path({str(page)!r}).write_text(f'{{asked.getresponse().status}} {{os.getsid(0) == os.getpid()}}')\n"
        "sys.exit(3)\n"
    )
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{opener.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")

    async def scene() -> None:
        async with reachable_session(controller, tmp_path), opened_locally(inside, "web") as (process, _):
            assert process.stderr is not None
            while not (line := await process.stderr.readline()).startswith(b"the browser"):
                assert line
            assert line == b"the browser could not be opened: xdg-open ended with 3\n"
            assert page.read_text() == "200 True"  # Ctrl-C does not end it

    asyncio.run(scene())


@pytest.mark.parametrize(
    "report",
    [
        ("[[ $1 != attach ]] || { printf '%070000d'; exit; }", "dev sent a line of more than 64 KiB", "Traceback"),
        (
            "[[ $1 != attach ]] || { echo state failed; printf 'output line %s.\\n' {1..21}; exit 1; }",
            "  line 2.\n",
            "  line 1.\n",
        ),
        (
            "[[ $1 != attach ]] || { echo refused the image has no flock; exit 1; }",
            "dev cannot start web: the image has no flock\n  hint: `berth services dev` lists its services; tell",
            "Traceback",
        ),
        ("exit 9", "ended with code 9\n  hint: `berth ssh dev` shows whether its login works\n", "Traceback"),
    ],
)
def test_strange_reports_of_a_session_are_explained(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path, report: tuple[str, str, str]
) -> None:
    program, said, unsaid = report
    file = inside.base / "node/service"
    file.write_text(f"{program}\n{file.read_text()}")

    async def scene() -> None:
        async with reachable_session(controller, tmp_path):
            done = await openssh.run(berth_inside(inside, "open", "dev", "web", "--local"))
            assert (done.code, done.out) == (1, b"")
            assert said in done.err
            assert unsaid not in done.err

    asyncio.run(scene())


def test_own_service_is_opened_and_a_faulty_file_is_named(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    folder = inside.base / "home/.config/berth/services.d"
    (folder / "mine.yaml").write_text(f"services:\n  - {{name: mine, command: {WEB}}}\n")
    (folder / "wrong.yaml").write_text("services:\n  - {name: vscode, comand: x}\n")

    async def scene() -> None:
        async with reachable_session(controller, tmp_path):
            listed = await openssh.run(berth_inside(inside, "services", "dev", "--json"))
            assert listed.code == 0, listed.err
            services = {each["name"]: each for each in json.loads(listed.out)["services"]}
            assert [(name, each["own"], each["state"]) for name, each in services.items()] == [
                ("web", False, "stopped"),
                ("bad", False, "stopped"),
                ("mine", True, "stopped"),
            ]
            assert "ignored: " in listed.err
            assert "did you mean `command`?" in listed.err
            assert "vscode is the name of an IDE" in listed.err
            async with opened_locally(inside, "mine", "--json") as (process, _):
                assert process.stdout is not None
                text = "{" + (await process.stdout.readuntil(b"}")).decode()
                assert (await asyncio.to_thread(fetch_page, json.loads(text)["url"]))[0] == 200
            table = await openssh.run(berth_inside(inside, "services", "dev"))
            assert [line.split()[:1] for line in table.out.decode().splitlines()] == [
                ["SERVICE"],
                ["web"],
                ["bad"],
                ["mine"],
            ]

    asyncio.run(scene())


def test_session_of_an_earlier_release_needs_a_restart(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    (inside.base / "node/service").unlink()

    async def scene() -> None:
        async with reachable_session(controller, tmp_path):
            for words in (("services", "dev"), ("open", "dev", "web", "--local")):
                done = await openssh.run(berth_inside(inside, *words))
                assert done.code == 4
                assert "dev was started before this site had services" in done.err
                assert "`berth stop dev` and `berth start dev`" in done.err

    asyncio.run(scene())


def tunnel_modes(place: Path) -> set[int]:
    """Return the modes of the directories with a tunnel, in a place or where a long path makes it lie."""
    found = [*place.glob("berth-*/tunnel.sock"), *Path("/tmp").glob("berth-*/tunnel.sock")]  # noqa: S108
    return {stat.S_IMODE(each.parent.stat().st_mode) for each in found}


def test_tunnel_lies_in_a_directory_of_the_user_alone(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    async def scene() -> None:
        async with reachable_session(controller, tmp_path), opened_locally(inside, "web") as (_, url):
            assert url
            modes = await asyncio.to_thread(tunnel_modes, tmp_path)
            assert modes == {0o700}

    asyncio.run(scene())


def test_stopped_session_lists_no_services(controller: ScriptedController, inside: SessionDirectories) -> None:
    controller.sessions["dev"] = view(state=SessionState.STOPPED)
    done = asyncio.run(openssh.run(berth_inside(inside, "services", "dev")))
    assert done.code == 5
    assert "dev is stopped" in done.err


@pytest.mark.parametrize(("service", "state"), [("web", "stopped"), ("mine", "starting ready")])
def test_web_access_gets_a_link_and_the_definition_of_an_own_service(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path, service: str, state: str
) -> None:
    folder = inside.base / "home/.config/berth/services.d"
    (folder / "mine.yaml").write_text(f"services:\n  - {{name: mine, command: {WEB}}}\n")
    page = "https://portal.apps.example.org/login"
    link = LinkAnswer(url=f"{page}#{'s' * 43}", login_url=page, code="ABCDE-FGHJK", expires_at=time.time() + 60)
    controller.answers["POST /v1/web/links"] = link

    async def scene() -> None:
        async with reachable_session(controller, tmp_path):
            controller.site = controller.site.model_copy(update={"portal_url": "https://portal.apps.example.org"})
            done = await openssh.run(berth_inside(inside, "open", "dev", service))
            assert (done.code, done.out.decode()) == (0, f"{link.url}\n"), done.err
            listed = await openssh.run(berth_inside(inside, "services", "dev", "--json"))
            states = {each["name"]: each["state"] for each in json.loads(listed.out)["services"]}
            assert states[service] in state.split()
            missing = await openssh.run(berth_inside(inside, "open", "dev", "none"))
            assert (missing.code, "its services: web, bad, mine" in missing.err) == (3, True)

    asyncio.run(scene())
    target = {"session": "dev", "service": service}
    assert [body for method, path, body in controller.asked if path == "/v1/web/links"] == [{"target": target}]


def test_own_service_that_is_refused_gets_no_link(
    controller: ScriptedController, inside: SessionDirectories, tmp_path: Path
) -> None:
    (inside.base / "home/.config/berth/services.d/mine.yaml").write_text(
        f"services:\n  - {{name: mine, command: {WEB}}}\n"
    )
    file = inside.base / "node/service"
    said = {"echo refused no flock; exit 1": "dev cannot start mine: no flock", "exit 0": "dev did not start mine"}

    async def scene() -> None:
        text = file.read_text()
        async with reachable_session(controller, tmp_path):
            controller.site = controller.site.model_copy(update={"portal_url": "https://portal.apps.example.org"})
            for program, message in said.items():
                file.write_text(f"[[ $1 != attach ]] || {{ {program}; }}\n{text}")
                done = await openssh.run(berth_inside(inside, "open", "dev", "mine"))
                assert (done.code, done.out) == (1, b"")
                assert message in done.err

    asyncio.run(scene())
