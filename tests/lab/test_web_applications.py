"""TensorBoard and Vite's development server in Chromium on the lab: published by their port, and not configured at all.

Both dislike to live below a path of another application. `make soak ARGS=tests/lab/test_web_applications.py` runs this
file alone. The first run fetches both through the package registries.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.applications.web_applications import VITE, tensorboard_tree, vite_tree
from tests.deadlines import DEADLINE_S
from tests.lab.browser import open_service
from tests.lab_cluster import wait_for
from tests.npm_tree import NODE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Page

    from tests.lab.conftest import User

pytestmark = pytest.mark.soak

VITE_PORT, TENSORBOARD_PORT = 5173, 6006
FILES = {
    "index.html": """<!doctype html>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/page.css">
<h1></h1>
<script type="module" src="/main.js"></script>
""",
    "main.js": """
import { text } from "./text.js";
const show = (value) => { document.querySelector("h1").textContent = value; };
show(text);
import.meta.hot.accept("./text.js", (changed) => show(changed.text));
""",
    "text.js": 'export const text = "as it was";',
    "page.css": "h1 { color: rgb(0, 0, 255) }",
}
"""A page whose parts can be replaced while it is shown."""
WRITE_RUN = """
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
writer = EventFileWriter("runs")
for step in range(20):
    writer.add_event(Event(step=step, wall_time=step, summary=Summary(value=[
        Summary.Value(tag="loss", simple_value=1 / (step + 1))])))
writer.close()
"""
"""Writes a curve as training programs do."""
LAST_VALUE = "0.05"


@pytest.fixture(scope="module")
def dev(people: dict[str, User]) -> Iterator[str]:
    """A session of alice's that is ready."""
    alice = people["alice"]
    alice.ok("start", "applications", "--profile", "base", "--mem=2G")
    yield "applications"
    alice.remove("applications")


def install(user: User, session: str, tree: Path, directory: str) -> None:
    """Copy a directory of the machine to the session's home."""
    packed = subprocess.run(["tar", "-C", tree, "-cf", "-", "."], capture_output=True, check=True, timeout=DEADLINE_S)
    user.ok("ssh", session, f"mkdir {directory}; tar -xf - -C {directory}", stdin=packed.stdout)


@contextmanager
def published(user: User, session: str, command: str, port: int) -> Iterator[str]:
    """Run a server in the session and publish its port for the time of the block; gives the service's name."""
    user.ok("ssh", session, f"setsid {command} >server.log 2>&1 </dev/null & echo $! >server.pid")
    ask = f"exec 3<>/dev/tcp/localhost/{port}"
    listens = f"bash -c {shlex.quote(ask)} || ! kill -0 $(cat server.pid)"
    try:
        wait_for(lambda: user.berth("ssh", session, listens).returncode == 0, what=f"a server on port {port}")
        yield user.ok("forward", session, str(port), "--title", "An application").strip()
        user.ok("forward", session, str(port), "--remove")
    finally:
        sys.stderr.write(user.ok("ssh", session, "kill $(cat server.pid); cat server.log"))


def record_errors(page: Page) -> list[str]:
    """Return a list that gets each error of the page's console and each exception of its scripts."""
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return errors


def write(user: User, session: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        user.ok("ssh", session, f"cat >{name}", stdin=text.encode())


def test_vite_replaces_a_changed_module_in_the_page(alice: User, dev: str, page: Page) -> None:
    errors = record_errors(page)
    install(alice, dev, vite_tree(), "vite")
    write(alice, dev, FILES)
    with published(alice, dev, f"vite/{NODE} vite/{VITE} --port {VITE_PORT} --strictPort", VITE_PORT) as service:
        with page.expect_websocket() as socket:
            open_service(page, alice, dev, service)
        heading = page.locator("h1")
        expect(heading).to_have_text("as it was")
        expect(heading).to_have_css("color", "rgb(0, 0, 255)")
        assert socket.value.url.startswith(f"ws://{service}--{dev}--alice.")
        page.evaluate("window.isFirstLoad = true")
        write(alice, dev, {"text.js": 'export const text = "as it is";', "page.css": "h1 { color: rgb(255, 0, 0) }"})
        expect(heading).to_have_text("as it is")
        expect(heading).to_have_css("color", "rgb(255, 0, 0)")
        assert page.evaluate("window.isFirstLoad") is True
    assert errors == []


def test_tensorboard_draws_a_curve(alice: User, dev: str, page: Page) -> None:
    errors = record_errors(page)
    python = alice.ok("ssh", dev, "python3 -c 'import sys; print(*sys.version_info[:2], sep=\".\")'").strip()
    install(alice, dev, tensorboard_tree(python), "tensorboard")
    alice.ok("ssh", dev, "PYTHONPATH=tensorboard python3 -", stdin=WRITE_RUN.encode())
    command = f"env PYTHONPATH=tensorboard python3 -m tensorboard.main --logdir runs --port {TENSORBOARD_PORT}"
    with published(alice, dev, command, TENSORBOARD_PORT) as service:
        open_service(page, alice, dev, service)
        expect(page.get_by_text("loss", exact=True).first).to_be_visible()
        expect(page.locator("scalar-card line-chart svg").first).to_be_visible()
        expect(page.get_by_text(LAST_VALUE, exact=True).first).to_be_visible()
    assert errors == []
