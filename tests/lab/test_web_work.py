"""Work in Chromium on the lab: vim in the terminal over lost connections, and a port of the user's with WebSockets."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from tests.lab.browser import host_of, open_service, reopen, type_in_terminal, wait_for_terminal
from tests.lab.network_cut import cut_network
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.lab.conftest import User
    from tests.site.deploy import Site

PORT = 18081
ECHO = """
import base64, hashlib, socketserver, sys
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        lines = iter(self.rfile.readline, b"\\r\\n")
        head = dict(line.decode().strip().lower().partition(": ")[::2] for line in map(self.note, lines))
        if "upgrade" not in head:
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 9\\r\\nConnection: close\\r\\n\\r\\nan echo\\r\\n")
            return
        accept = hashlib.sha1(self.key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n")
        self.wfile.write(b"Sec-WebSocket-Protocol: echo\\r\\nSec-WebSocket-Accept: ")
        self.wfile.write(base64.b64encode(accept) + b"\\r\\n\\r\\n")
        while len(begin := self.rfile.read(2)) == 2:
            size = begin[1] & 127
            size = int.from_bytes(self.rfile.read(2), "big") if size == 126 else size
            mask, data = self.rfile.read(4), self.rfile.read(size)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
            length = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, "big")
            self.wfile.write(begin[:1] + length + data)
    def note(self, line):
        if line.lower().startswith(b"sec-websocket-key:"):
            self.key = line.split()[1]
        return line
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
with Server(("127.0.0.1", int(sys.argv[1])), Echo) as server:
    print("listens", flush=True)
    server.serve_forever()
"""
"""A server on a port that sends back each frame of a WebSocket."""
EXCHANGE = """
texts => new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${location.host}/echo`, ["other", "echo"]), answers = [];
    socket.onopen = () => texts.forEach(text => socket.send(text));
    socket.onmessage = message => answers.push(message.data) === texts.length && socket.close(4321, "enough");
    socket.onclose = end => resolve({answers, protocol: socket.protocol, code: end.code});
    socket.onerror = () => reject(new Error("no WebSocket"));
})
"""
"""Sends texts by a WebSocket of the page's own origin, and gives what came back."""
WIDTH, NARROW_WIDTH, HEIGHT = 1200, 700, 600


@pytest.fixture(scope="module")
def dev(people: dict[str, User]) -> Iterator[str]:
    """A session of alice's that is ready."""
    alice = people["alice"]
    alice.ok("start", "work", "--profile", "base")
    yield "work"
    alice.remove("work")


def tmux(user: User, session: str, *command: str) -> str:
    """Ask the tmux of the service `terminal`."""
    return user.berth("ssh", session, shlex.join(["tmux", *command])).stdout.decode()


def wait_for_text(user: User, session: str, text: str) -> None:
    """Wait until the terminal shows a text."""
    wait_for(lambda: text in tmux(user, session, "capture-pane", "-p", "-t", "web"), what=f"{text} in the terminal")


def clients(user: User, session: str) -> set[str]:
    """Return the processes of tmux's clients: one for each connected page."""
    return set(tmux(user, session, "list-clients", "-t", "web", "-F", "#{client_pid}").split())


def wait_for_new_client(user: User, session: str, before: set[str]) -> None:
    """Wait until a page has connected again: keys that are typed earlier are lost."""
    wait_for(lambda: bool(clients(user, session) - before), what="the new page in tmux")


def pane(user: User, session: str) -> list[str]:
    """Return the process of the shell, the program in front, and the width in columns."""
    return tmux(
        user, session, "display-message", "-p", "-t", "web", "#{pane_pid} #{pane_current_command} #{pane_width}"
    ).split()


@pytest.mark.soak
def test_vim_is_found_again_after_lost_connections(alice: User, dev: str, page: Page, crashing: Site) -> None:
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    open_service(page, alice, dev, "terminal")
    type_in_terminal(page, "vim.tiny story.txt")
    wait_for(lambda: pane(alice, dev)[1] == "vim.tiny", what="vim")
    shell, _, columns = pane(alice, dev)
    page.keyboard.type("iOnce upon a time")
    wait_for_text(alice, dev, "Once upon a time")

    page.set_viewport_size({"width": NARROW_WIDTH, "height": HEIGHT})
    wait_for(lambda: int(pane(alice, dev)[2]) < int(columns), what="a narrower terminal")
    narrow = pane(alice, dev)[2]
    page.keyboard.press("Escape")
    page.keyboard.type(":set columns?\n")
    wait_for_text(alice, dev, f"columns={narrow}")

    for program, text in (("ssh", " there was a tunnel"), ("haproxy", " and a proxy")):
        before = clients(alice, dev)
        crashing.lab.sh(f"pkill -KILL -u berth-web {program}")
        reopen(page, host_of("terminal", dev, "alice"))
        wait_for_new_client(alice, dev, before)
        page.keyboard.type(f"A{text}")
        wait_for_text(alice, dev, text)
        page.keyboard.press("Escape")
        assert pane(alice, dev)[:2] == [shell, "vim.tiny"]
    page.keyboard.type(":wq\n")
    wait_for(lambda: pane(alice, dev)[1] != "vim.tiny", what="the end of vim")
    assert alice.ok("ssh", dev, "cat story.txt") == "Once upon a time there was a tunnel and a proxy\n"


def vim_answers(user: User, session: str, page: Page) -> bool:
    """Whether what is typed in the page reaches vim. Until the page has connected again, it is lost."""
    page.keyboard.press("Escape")
    page.keyboard.type(":set tabstop=7 tabstop?\n")
    return "tabstop=7" in tmux(user, session, "capture-pane", "-p", "-t", "web")


def test_vim_goes_on_by_itself_after_a_cut_of_the_network_with_a_restart(
    alice: User, dev: str, page: Page, crashing: Site
) -> None:
    """A short form; `make soak` has a long one, with editors."""
    open_service(page, alice, dev, "terminal")
    type_in_terminal(page, "vim.tiny cut.txt")
    wait_for(lambda: pane(alice, dev)[1] == "vim.tiny", what="vim")
    before = pane(alice, dev)[:2]
    page.evaluate("window.isFirstLoad = true")
    with cut_network(crashing.lab):
        crashing.kill("web")
        crashing.start("web")
    wait_for(lambda: vim_answers(alice, dev, page), what="vim in the page")
    assert pane(alice, dev)[:2] == before
    assert page.evaluate("window.isFirstLoad") is True
    page.keyboard.type(":q\n")
    wait_for(lambda: pane(alice, dev)[1] != "vim.tiny", what="the end of vim")


def test_page_of_the_terminal_reconnects_by_itself(alice: User, dev: str, page: Page, crashing: Site) -> None:
    open_service(page, alice, dev, "terminal")
    wait_for_terminal(page)
    with page.expect_websocket() as again:
        crashing.lab.sh("pkill -KILL -u berth-web ssh")
    assert again.value.url.startswith("ws://terminal--")


def test_port_of_the_user_takes_websockets(alice: User, dev: str, page: Page) -> None:
    alice.ok("ssh", dev, f"setsid python3 -c {shlex.quote(ECHO)} {PORT} >echo.log 2>&1 & echo $! >echo.pid")
    wait_for(lambda: alice.berth("ssh", dev, "cat echo.log").stdout == b"listens\n", what="alice's server")
    service = alice.ok("forward", dev, str(PORT)).strip()
    open_service(page, alice, dev, service)
    texts = ["one", "x" * 40_000, "ende: äöü"]
    assert page.evaluate(EXCHANGE, texts) == {"answers": texts, "protocol": "echo", "code": 4321}
    alice.ok("forward", dev, str(PORT), "--remove")
    alice.ok("ssh", dev, "kill $(cat echo.pid)")
