"""`web-start`: from a stopped session to a terminal's prompt in a Chromium that runs, against the same by hand."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import Error as PlaywrightError

from tests.bench.ground import PROFILE, SSH_CONFIG, USER
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.lab.browser import chromium_on_login
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.bench.ground import Ground

NAME = "web-start"
TARGET = Target(1.3)
OURS, PEER = "web-start", "web-start-peer"
"""Sessions, one for each side."""
PORT = 17681
PROMPT = """() => {
    const buffer = window.term?.buffer?.active;
    if (!buffer) return false;
    for (let row = 0; row < buffer.length; row++)
        if (/[$#] *$/.test(buffer.getLine(row).translateToString(true))) return true;
    return false;
}"""
"""Whether ttyd's terminal shows a prompt: ttyd publishes it as `window.term`."""
LIMIT_S = 60.0


def measure(ground: Ground, runs: int) -> Result:
    names = itertools.count()
    with tempfile.TemporaryDirectory() as directory, chromium_on_login(ground.lab, Path(directory)) as browser:
        for name in (OURS, PEER):
            ground.sh(f"berth start {name} --profile {PROFILE} --mem=1G", seconds=120)
        try:
            sides = {
                "ours": lambda: _ours(ground, browser),
                "peer": lambda: _peer(ground, browser, next(names)),
            }
            seconds = in_turns(sides, runs, name=NAME, unit="s")
        finally:
            for name in (OURS, PEER):
                ground.sh(f"berth stop {name}; berth delete --yes {name}")
    return result(NAME, seconds["ours"], seconds["peer"], "s", TARGET)


def _ours(ground: Ground, browser: Browser) -> float:
    """`berth start`, and the link of `berth open`, followed as soon as it is printed.

    Right after a stop, `berth open` alone does not start a session.
    """
    _stop(ground, OURS)
    with _page(browser) as page:
        began = time.perf_counter()
        start = f"berth start {OURS} >/dev/null && exec berth open {OURS} terminal --print"
        with ground.lab.popen(["timeout", f"{LIMIT_S:g}", "bash", "-c", start], user=USER) as command:
            assert command.stdout is not None
            link = command.stdout.readline().decode().strip()
            page.goto(link)
            page.get_by_role("button", name="Log in as").click()
            page.wait_for_function(PROMPT)
            took = time.perf_counter() - began
            command.communicate()
    ground.sh("berth browsers --logout-all")
    return took


def _peer(ground: Ground, browser: Browser, number: int) -> float:
    """`berth start`, then the same ttyd through `ssh -L`, opened as soon as it answers."""
    _stop(ground, PEER)
    socket = f"/tmp/direct-{number}.sock"  # noqa: S108 - in the session, where /tmp is the user's own
    ttyd = f"exec ttyd --interface {socket} --writable --check-origin tmux new-session -A -s direct{number}"
    ssh = ["ssh", "-F", SSH_CONFIG, "-L", f"127.0.0.1:{PORT}:{socket}", f"{PEER}.berth", ttyd]
    with _page(browser) as page:
        began = time.perf_counter()
        ground.sh(f"berth start {PEER}", seconds=LIMIT_S)
        with ground.lab.popen(["timeout", "60", "bash", "-c", f"exec {shlex.join(ssh)}"], user=USER) as tunnel:
            try:
                _open(page, f"http://localhost:{PORT}/", tunnel)
                page.wait_for_function(PROMPT)
                return time.perf_counter() - began
            finally:
                ground.lab.run(["pkill", "-u", USER, "-f", f"127.0.0.1:{PORT}:{socket}"])
                tunnel.communicate(timeout=LIMIT_S)


def _open(page: Page, address: str, tunnel: subprocess.Popen[bytes]) -> None:
    """Load the page as soon as it is there."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        try:
            response = page.goto(address)
            if response is not None and response.ok:
                return
        except PlaywrightError:
            pass
        if time.monotonic() > deadline or tunnel.poll() is not None:
            raise UnmeasurableError(f"{NAME}: ttyd does not answer")
        time.sleep(0.02)


@contextlib.contextmanager
def _page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        context.set_default_timeout(LIMIT_S * 1000)
        yield context.new_page()


def _stop(ground: Ground, name: str) -> None:
    ground.sh(f"berth stop {name}", seconds=LIMIT_S)
    job = ground.berth(f"show {name}").get("job_id")
    if job is not None:
        still = f"squeue -h -j {int(job)} -o %T | grep -q ."
        wait_for(lambda: ground.lab.run(["sh", "-c", still]).returncode != 0, what=f"the end of job {job}")
