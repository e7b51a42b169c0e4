"""Web access while its processes are killed and stopped, and revocations that meet such faults."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import ProgressLog
from tests.lab.services import restart
from tests.lab.web_browser import GRANT, PORTAL, WebBrowser, origin
from tests.lab.web_deaths import WEB_DEATHS
from tests.lab.web_sockets import web_socket
from tests.lab_cluster import wait_for
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab
    from tests.site.deploy import Site

SESSION = "faults"
PAGE = origin("page", SESSION, "alice")
TERMINAL = origin("terminal", SESSION, "alice")
OPEN, REFUSED = 200, {0, 403, 503}
"""The status for the visitor, and those for intruders.

Nothing listens for a while (0), and 503 is the answer until the controller has said which visits are valid.
"""


@dataclass
class World:
    """Alice's session, her browser with both services open, and those that must not get in."""

    alice: User
    browser: WebBrowser
    intruders: dict[str, WebBrowser]

    @property
    def lab(self) -> Lab:
        return self.alice.site.lab

    def keep_out(self) -> None:
        """Each intruder is refused, now."""
        for name, each in self.intruders.items():
            for url in (PAGE, TERMINAL):
                assert each.fetch(f"{url}/").status in REFUSED, (name, url)
                if name == "bob":
                    reply = each.page(f"{url}/")
                    assert (reply.status, reply.url.startswith(url)) != (OPEN, True)

    def recovers(self) -> None:
        """Wait for the browser's pages, with its cookies of before; meanwhile keep others out.

        `make bench ARGS=web-recover` measures how long that takes.
        """
        grants = [self.browser.grant(url) for url in (PAGE, TERMINAL)]

        def serves() -> bool:
            self.keep_out()
            return all(self.browser.page(f"{url}/").status == OPEN for url in (PAGE, TERMINAL))

        wait_for(serves, what="berth-web to serve again")
        assert [self.browser.grant(url) for url in (PAGE, TERMINAL)] == grants, "without another visit"


@pytest.fixture(scope="module")
def session(site: Site, people: dict[str, User], image: str) -> Iterator[str]:
    assert image
    deploy.build_profile(site, "web", ProgressLog(quiet=True))
    people["alice"].ok("start", SESSION, "--profile", "web", "--mem=300M")
    yield SESSION
    people["alice"].remove(SESSION)


@pytest.fixture
def world(people: dict[str, User], session: str, crashing: Site) -> World:
    assert session
    lab, alice, bob = crashing.lab, people["alice"], people["bob"]
    former, bobs, browser = WebBrowser(lab), WebBrowser(lab), WebBrowser(lab)
    former.log_in(alice)
    for url in (PAGE, TERMINAL):
        assert former.opens(f"{url}/").status == OPEN
    assert json.loads(alice.ok("browsers", "--logout-all", "--json"))["closed"]
    bobs.log_in(bob)
    browser.log_in(alice)
    for url in (PAGE, TERMINAL):
        assert browser.opens(f"{url}/").status == OPEN
        bobs.cookies[url] = {GRANT: "0" * 43}
    made = World(alice, browser, {"logged out": former, "bob": bobs, "stranger": WebBrowser(lab)})
    made.keep_out()
    return made


@pytest.mark.parametrize("process", WEB_DEATHS)
def test_killed_process_of_web_access_comes_back_and_lets_nobody_else_in(
    world: World, crashing: Site, process: str
) -> None:
    with web_socket(world.lab, TERMINAL, world.browser.grant(TERMINAL)) as socket:
        assert socket.is_open
        WEB_DEATHS[process](crashing)
        world.recovers()
        socket.closed_at()
    with web_socket(world.lab, TERMINAL, world.browser.grant(TERMINAL)) as again:
        assert again.is_open


def test_what_stands_goes_on_while_the_controller_is_dead_and_nobody_else_gets_in(world: World, crashing: Site) -> None:
    with web_socket(world.lab, TERMINAL, world.browser.grant(TERMINAL)) as socket:
        crashing.kill("broker", "KILL")
        for url in (PAGE, TERMINAL):
            assert world.browser.fetch(f"{url}/").status == OPEN
        world.keep_out()
        restart(crashing)
        assert socket.is_open
        world.recovers()
        assert socket.is_open


def test_what_stands_goes_on_while_the_controller_is_stopped_and_nobody_else_gets_in(
    world: World, crashing: Site
) -> None:
    with web_socket(world.lab, TERMINAL, world.browser.grant(TERMINAL)) as socket:
        pid = crashing.controller_pid()
        crashing.lab.sh(f"kill -STOP {pid}")
        try:
            for url in (PAGE, TERMINAL):
                assert world.browser.fetch(f"{url}/").status == OPEN
            for each in world.intruders.values():
                assert each.fetch(f"{PAGE}/").status in REFUSED
        finally:
            crashing.lab.sh(f"kill -CONT {pid}")
        world.recovers()
        assert socket.is_open


def test_logout_is_acknowledged_after_sockets_of_old_and_new_haproxy_are_closed(world: World, crashing: Site) -> None:
    lab, grant = world.lab, world.browser.grant(TERMINAL)
    before = crashing.log("web").count("haproxy reloaded")
    with web_socket(lab, TERMINAL, grant) as old:
        lab.sh(f"kill -HUP {crashing.pid('web')}")
        wait_for(lambda: crashing.log("web").count("haproxy reloaded") > before, what="the reload")
        with web_socket(lab, TERMINAL, grant) as new:
            assert old.is_open
            assert new.is_open
            _log_out(world)
            acknowledged_at = time.time()
            assert max(old.closed_at(), new.closed_at()) <= acknowledged_at
    _is_over(world)


@pytest.mark.parametrize("killed", ["broker", "web", "both"])
def test_logout_holds_if_processes_are_killed_right_after_it(world: World, crashing: Site, killed: str) -> None:
    with web_socket(world.lab, TERMINAL, world.browser.grant(TERMINAL)) as socket:
        _log_out(world)
        acknowledged_at = time.time()
        if killed in {"broker", "both"}:
            crashing.lab.sh(f"kill -KILL {crashing.controller_pid()}")
        if killed in {"web", "both"}:
            crashing.kill("web", "KILL")
        assert socket.closed_at() <= acknowledged_at
    if killed in {"broker", "both"}:
        wait_for(lambda: crashing.ended("broker"), what="the launcher to end with its controller")
    _is_over(world)
    if killed == "both":  # berth-web has its file of grants, and nobody to ask
        crashing.start("web")
        wait_for(
            lambda: world.browser.fetch(f"{PAGE}/").status in {403, 503},
            what="berth-web to listen again without a controller",
        )
        _is_over(world)
    restart(crashing)
    _is_over(world)


def test_stop_of_the_session_closes_its_sockets(world: World, crashing: Site) -> None:
    assert crashing
    grant = world.browser.grant(TERMINAL)
    with web_socket(world.lab, TERMINAL, grant) as socket:
        world.alice.ok("stop", SESSION)
        stopped_at = time.time()
        assert socket.closed_at() <= stopped_at
    try:
        wait_for(lambda: world.browser.fetch(f"{PAGE}/").status == 403, what="the visit to have ended")
    finally:
        world.alice.ok("start", SESSION)
    old = WebBrowser(world.lab, {TERMINAL: {GRANT: grant}})
    assert old.fetch(f"{TERMINAL}/").status == 403


def _log_out(world: World) -> None:
    """Log all of alice's browsers out; the command says that all is closed."""
    answer = json.loads(world.alice.ok("browsers", "--logout-all", "--json"))
    assert answer["closed"]
    assert answer["ended"]


def _is_over(world: World) -> None:
    """The browser's cookies open nothing any more."""
    for url in (PAGE, TERMINAL):
        assert world.browser.fetch(f"{url}/").status in REFUSED
    with web_socket(world.lab, TERMINAL, world.browser.grant(TERMINAL)) as refused:
        assert refused.status in REFUSED
    world.keep_out()
    reply = world.browser.page(f"{PORTAL}/")
    assert reply.status in {0, 502} or "/login" in reply.url  # 502: there is no controller
