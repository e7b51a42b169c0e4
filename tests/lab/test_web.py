"""Web access in Chromium: log in by a link, work in a terminal, and lose it by a logout."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.fakes import web_service
from tests.lab.browser import (
    PORTAL,
    host_of,
    log_in,
    login_link,
    open_service,
    reopen,
    type_in_terminal,
    wait_for_terminal,
)
from tests.lab_cluster import wait_for
from tests.processes import process_children

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.lab.conftest import User
    from tests.site.deploy import Site

PORT = 18080
SERVER = """
import socket, sys
page = b"HTTP/1.1 200 OK\\r\\nContent-Length: 12\\r\\nConnection: close\\r\\n\\r\\nthis is mine"
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    print("listens", flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            if data := connection.recv(65536):
                connection.sendall(page)
            else:
                print("got 0 bytes", flush=True)
"""
"""A server on a port that says when a client has gone without a byte."""


@pytest.fixture(scope="module")
def dev(people: dict[str, User]) -> Iterator[str]:
    """A session of alice's that is ready."""
    alice = people["alice"]
    alice.ok("start", "dev", "--profile", "base")
    yield "dev"
    alice.remove("dev")


def test_link_opens_a_terminal_and_the_next_page_finds_the_same_shell(alice: User, dev: str, page: Page) -> None:
    open_service(page, alice, dev, "terminal")
    type_in_terminal(page, "mark=$((6*7)); echo $mark >~/typed-in-browser")
    read = ["ssh", dev, "cat typed-in-browser"]
    wait_for(lambda: alice.berth(*read).stdout == b"42\n", what="the typed command")
    page.reload()
    type_in_terminal(page, "echo again $mark >~/typed-in-browser")
    wait_for(lambda: alice.berth(*read).stdout == b"again 42\n", what="the same shell")


def test_logout_closes_the_open_terminal(alice: User, dev: str, page: Page) -> None:
    open_service(page, alice, dev, "terminal")
    wait_for_terminal(page)
    browsers = json.loads(alice.ok("browsers", "--json"))["browsers"]
    assert browsers
    with page.expect_websocket() as reconnected:  # ttyd connects anew when its WebSocket has ended
        answer = json.loads(alice.ok("browsers", "--logout-all", "--json"))
    assert answer["closed"]
    assert reconnected.value.url.startswith("ws://terminal--")
    assert json.loads(alice.ok("browsers", "--json"))["browsers"] == []
    page.goto(host_of("terminal", dev, "alice"))
    assert page.url.startswith(f"{PORTAL}/login?")


def test_another_user_is_refused(bob: User, dev: str, page: Page) -> None:
    log_in(page, bob, "portal")
    page.wait_for_url(f"{PORTAL}/")
    expect(page.get_by_text(dev, exact=True)).to_have_count(0)
    page.goto(host_of("terminal", dev, "alice"))
    expect(page.get_by_text("you may open no service at")).to_be_visible()


def test_published_port_is_opened_until_another_user_has_it(alice: User, bob: User, dev: str, page: Page) -> None:
    lab, node = alice.site.lab, alice.show(dev)["endpoint"]["node"]
    assert alice.ok("forward", dev, str(PORT), "--title", "My page") == f"port-{PORT}\n"
    serve = f"setsid python3 -c {shlex.quote(SERVER)} {PORT} >server.log 2>&1 & echo $! >server.pid"
    alice.ok("ssh", dev, serve)
    wait_for(lambda: alice.berth("ssh", dev, "cat server.log").stdout == b"listens\n", what="alice's server")
    log_in(page, alice, "open", dev, f"port-{PORT}")
    expect(page.get_by_text("this is mine")).to_be_visible()
    page.goto(f"{PORTAL}/sessions/{dev}")
    expect(page.locator(f"#service-port-{PORT}")).to_be_visible()  # named by its title, once the job has reported it

    alice.ok("ssh", dev, "kill $(cat server.pid)")
    page.goto(host_of(f"port-{PORT}", dev, "alice"))
    expect(page.get_by_text(f"Nothing listens on localhost:{PORT}")).to_be_visible()
    argv = lab.argv(["python3", "-c", SERVER, str(PORT)], user=bob.name, node=node)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as theirs:
        assert theirs.stdout is not None
        try:
            assert theirs.stdout.readline() == b"listens\n"
            page.reload()
            expect(page.get_by_text("belongs to another user of the node. Nothing was sent to it.")).to_be_visible()
            assert theirs.stdout.readline() == b"got 0 bytes\n"
        finally:
            for each in process_children(theirs.pid):  # nsenter's child
                os.kill(each, signal.SIGKILL)
    alice.ok("forward", dev, str(PORT), "--remove")


def test_own_service_is_opened_from_the_portal_without_berth(alice: User, dev: str, page: Page) -> None:
    """No command line has to send the definition: the session's job reports the user's file."""
    alice.ok("ssh", dev, "cat >page.py", stdin=Path(str(web_service.__file__)).read_bytes())
    text = "services: [{name: mine, title: My board, command: exec python3 page.py}]"
    folder = "~/.config/berth/services.d"
    alice.ok("ssh", dev, f"mkdir -p {folder}; echo {shlex.quote(text)} >{folder}/mine.yaml")
    log_in(page, alice, "portal")
    page.wait_for_url(f"{PORTAL}/")
    button = page.get_by_role("link", name="My board")

    def is_listed() -> bool:
        page.goto(f"{PORTAL}/sessions/{dev}")
        return button.count() == 1

    wait_for(is_listed, what="the session's report of the service")
    button.click()
    expect(page.get_by_text(f"mine--{dev}--alice.berth.localhost")).to_be_visible()


def test_session_is_started_and_stopped_from_the_portal(alice: User, dev: str, page: Page) -> None:
    log_in(page, alice, "portal")
    page.wait_for_url(f"{PORTAL}/")
    page.get_by_role("link", name=dev, exact=True).click()
    page.wait_for_url(f"{PORTAL}/sessions/{dev}")
    page.get_by_role("link", name="Stop").click()
    page.get_by_role("button", name="Stop").click()
    alice.wait(dev, "stopped")
    page.goto(f"{PORTAL}/sessions/{dev}")
    page.get_by_role("link", name="Start", exact=True).click()
    page.get_by_role("button", name="Start").click()
    alice.wait(dev, "ready")


def test_link_works_once(alice: User, page: Page, chromium: Browser) -> None:
    address = login_link(alice, "portal")
    page.goto(address)
    page.get_by_role("button", name="Log in as alice").click()
    page.wait_for_url(f"{PORTAL}/")
    with chromium.new_context() as another:
        late = another.new_page()
        late.goto(address)
        expect(late.get_by_text("was used or has expired")).to_be_visible()


def test_open_terminal_survives_killed_processes(alice: User, dev: str, page: Page, crashing: Site) -> None:
    """berth-web keeps its grants, and starts HAProxy and the tunnel again; the page reconnects by itself."""
    open_service(page, alice, dev, "terminal")
    type_in_terminal(page, "mark=kept")
    for program in ("haproxy", "ssh"):
        crashing.lab.sh(f"pkill -KILL -u berth-web {program}")
        reopen(page, host_of("terminal", dev, "alice"))
    crashing.kill("web", "KILL")
    crashing.start("web")
    reopen(page, host_of("terminal", dev, "alice"))
    type_in_terminal(page, "echo $mark >~/typed-in-browser")
    wait_for(lambda: alice.berth("ssh", dev, "cat typed-in-browser").stdout == b"kept\n", what="the same shell")
