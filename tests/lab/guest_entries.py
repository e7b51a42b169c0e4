"""The ways in of guests on the lab: each opened so that its end is noticed, and tried again afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.schema.grants import Role
from tests.deadlines import DEADLINE_S
from tests.lab.web_browser import ACCOUNT, GRANT, WebBrowser, origin
from tests.lab_cluster import wait_for
from tests.processes import process_children
from tests.pseudo_terminal import PseudoTerminal
from tests.revocation_matrix import BEGINS
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User

PORT = 8765
SERVICE = f"port-{PORT}"
CANARY = "canary-of-alice"
SERVER = f"""
import http.server, time
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"page-of-alice\\n")
        while self.path == "/stream":
            self.wfile.write(b"more\\n")
            time.sleep(0.2)
http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Page).serve_forever()
"""
"""A page of alice's, and one that never ends."""
MARK = "sleep 98765"
"""A process that a guest with the role `use` leaves behind."""
ESTABLISHED = "01"
"""The state of a TCP socket in /proc/net/tcp."""
WAIT_S = 8
"""Seconds for which a call of the API waits for a change."""


@dataclass
class Scene:
    """A session of alice's with a shown terminal, a published page, a snapshot, and secrets."""

    alice: User
    bob: User
    name: str
    browser: WebBrowser
    snapshot: str = ""
    clones: list[str] = field(default_factory=list)

    @property
    def session(self) -> str:
        return f"alice.{self.name}"

    @property
    def url(self) -> str:
        return origin(SERVICE, self.name, "alice")

    def prepare(self) -> None:
        """Have the session ready, with all that is shared in it."""
        self.alice.ok("start", self.name, "--profile", "base")
        self.alice.laptop.ok(
            self.name,
            f"echo {CANARY} | tee ~/.netrc >~/.bash_history; echo export TOKEN={CANARY} >>~/.bashrc\n"
            "tmux new-session -d -s main -x 80 -y 24 && tmux send-keys -t main berth-show Enter\n"
            f"setsid -f python3 -c {shlex.quote(SERVER)} >~/server.log 2>&1",
        )
        wait_for(lambda: self.tmux("display-message -p '#{pane_pipe}'") == "1\n", what="the terminal to be shown")
        self.alice.ok("forward", self.name, str(PORT))
        if not self.snapshot:
            self.alice.ok("snapshot", self.name)
            taken = json.loads(self.alice.ok("snapshots", self.name, "--json"))["snapshots"]
            self.snapshot = str(taken[-1]["number"])

    def tmux(self, command: str) -> str:
        return self.alice.laptop.ok(self.name, f"tmux {command}").decode()

    def share(self, role: Role, grantee: str, *options: str) -> None:
        words = {Role.PORT: ["--service", SERVICE], Role.SNAPSHOT: ["--snapshot", self.snapshot, "--yes"]}
        asked = ["--yes"] if role is Role.USE else []
        self.alice.ok("share", self.name, grantee, *words.get(role, ["--role", role, *asked]), *options)

    def relays(self) -> int:
        """The number of connections that a gateway has to the session's sshd, and a browser to berth-web.

        A gateway has one more to each session, for the verification of its sshd.
        """
        lab, port = self.alice.site.lab, self.alice.show(self.name)["endpoint"]["port"]
        script = f"id -u {deploy.GATEWAY_ACCOUNT} {ACCOUNT}; cat /proc/net/tcp"
        gateway, browser, *lines = lab.sh(script).splitlines()
        wanted = {(gateway, port), (browser, deploy.WEB_PORT)}
        found = [line.split() for line in lines[1:]]
        remote = [(each[7], int(each[2].rpartition(":")[2], 16)) for each in found if each[3] == ESTABLISHED]
        return len([each for each in remote if each in wanted])


def ssh_argv(bob: User, session: str, way: str) -> list[str]:
    """The command by which bob enters a session of alice's."""
    if way == "gateway":
        return bob.laptop.argv(session)[:-1]
    place = bob.site.lab.place.name
    argv = [sys.executable, "-m", "slurm.lab", "exec", "--name", place, "--tty", "--user", "bob", "login"]
    return [*argv, "--", "berth", "ssh", session]


def terminal(bob: User, session: str, way: str) -> PseudoTerminal:
    """Bob's terminal, in which he enters a session of alice's."""
    return PseudoTerminal(ssh_argv(bob, session, way), {**os.environ, "TERM": "xterm-256color"}, columns=100, lines=30)


@contextlib.contextmanager
def by_ssh(scene: Scene, role: Role, way: str) -> Iterator[Callable[[], None]]:
    with terminal(scene.bob, scene.session, way) as screen:
        screen.wait_for_text(BEGINS[role].format(scene.session))
        if role is Role.USE:
            screen.type(f"setsid -f {MARK}; echo in-$((20+3))\r")
            screen.wait_for_text("in-23")
        else:
            screen.type("touch ~/injected\r:new-window\r\x02c\x02d\x1b[200~id\x1b[201~")

        def ended() -> None:
            screen.wait_for_end()
            assert CANARY.encode() not in screen.output

        yield ended


@contextlib.contextmanager
def by_browser(scene: Scene, role: Role, way: str) -> Iterator[Callable[[], None]]:
    del role, way
    lab = scene.bob.site.lab
    wait_for(lambda: "page-of-alice" in scene.browser.opens(f"{scene.url}/").body, what="the page")
    cookie = f"Cookie: {GRANT}={scene.browser.grant(scene.url)}"
    headers = ["-H", cookie, "-H", "Sec-Fetch-Site: same-origin", "-H", "Sec-Fetch-Mode: cors"]
    argv = ["curl", "-sN", "--connect-to", "::127.0.0.1:", *headers, f"{scene.url}/stream"]
    with subprocess.Popen(lab.argv(argv, user=ACCOUNT), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as stream:
        assert stream.stdout is not None
        try:
            assert stream.stdout.readline() == b"page-of-alice\n"
            yield lambda: _ends(stream)
        finally:
            for each in process_children(stream.pid):  # nsenter's child
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)


def _ends(process: subprocess.Popen[bytes]) -> None:
    process.communicate(timeout=DEADLINE_S)


@contextlib.contextmanager
def by_api(scene: Scene, role: Role, way: str) -> Iterator[Callable[[], None]]:
    """A call that waits: it is answered when the access ends, or at the end of its time, and then refused."""
    del role, way
    revision = json.loads(scene.bob.request(f"/v1/sessions/{scene.session}")[1])["revision"] + 1000
    path = f"/v1/sessions/{scene.session}?after={revision}&wait={WAIT_S}"
    argv = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", "/run/berth/api.sock"]
    with scene.bob.site.lab.popen([*argv, f"http://localhost{path}"], user="bob") as call:

        def ended() -> None:
            status = call.communicate(timeout=DEADLINE_S)[0]
            assert status in {b"403", b"404", b"000"}, status  # 000: the controller was killed

        yield ended


@contextlib.contextmanager
def by_clone(scene: Scene, role: Role, way: str) -> Iterator[Callable[[], None]]:
    """A clone is no connection: it was made, and is bob's own."""
    del role, way
    scene.clones.append(f"mine{time.monotonic_ns()}")
    scene.bob.ok("clone", scene.session, scene.clones[-1], "--at", scene.snapshot)
    yield lambda: None
    assert scene.clones[-1] in scene.bob.sessions()


OPEN = {"gateway": by_ssh, "login node": by_ssh, "browser": by_browser, "API": by_api, "clone": by_clone}
"""The function by which a guest enters, by the name of the entry point in the matrix."""


def is_refused(scene: Scene, way: str) -> bool:
    """Whether a new attempt by this way is refused, and shows nothing of the session."""
    if way in {"gateway", "login node"}:
        with terminal(scene.bob, scene.session, way) as screen:
            code = screen.wait_for_end()
            seen = [words for words in BEGINS.values() if words.format(scene.session) in screen.text()]
            return code != 0 and not seen
    if way == "browser":
        replies = [scene.browser.fetch(f"{scene.url}/"), scene.browser.page(f"{scene.url}/")]
        return not [reply for reply in replies if reply.status == 200 or "page-of-alice" in reply.body]
    if way == "API":
        return scene.bob.request(f"/v1/sessions/{scene.session}")[0] in {403, 404}
    return scene.bob.berth("clone", scene.session, "never", "--at", scene.snapshot).returncode in {3, 4}
