"""`web-chp`: HAProxy as berth-web configures it, against npm's configurable-http-proxy; without a tunnel."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from broker.web.haproxy import Haproxy
from broker.web.haproxy_config import GrantRoute
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.bench.web_requests import wrk
from tests.fakes.openssh import free_port
from tests.fakes.web_settings import loopback_settings
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bench.ground import Ground

NAME = "web-chp"
TARGET = Target(5, more_is_better=True)
PACKAGE = "configurable-http-proxy@5.3.0"
CHP = Path("build/chp")
HOST, COOKIE = "page--dev--alice.berth.localhost", "x" * 43
TOKEN = "bench"  # noqa: S105 - of a proxy that lives for the benchmark


def measure(ground: Ground, runs: int) -> Result:
    """Answers of 1 KiB a second to 32 clients, from a web server of this machine."""
    del ground
    program = chp_program()
    with tempfile.TemporaryDirectory(prefix="bw", dir="/tmp") as place, _page(Path(place)) as socket:
        ours, peer = free_port(), free_port()
        host = f"{HOST}:{ours}"
        headers = [f"Host: {host}", f"Origin: http://{host}", f"Cookie: __Host-Http-berth={COOKIE}"]
        with _haproxy(Path(place), ours, socket), _chp(program, peer, socket):
            sides = {
                "ours": lambda: wrk(_run, ours, headers),
                "peer": lambda: wrk(_run, peer, headers),
            }
            found = in_turns(sides, runs, name=NAME, unit="1/s")
    return result(NAME, found["ours"], found["peer"], "1/s", TARGET)


def chp_program() -> list[str]:
    """The command of the proxy, installed by npm on first use. UnmeasurableError without node and npm."""
    script = CHP / "node_modules/configurable-http-proxy/bin/configurable-http-proxy"
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise UnmeasurableError(f"{NAME} needs node and npm: apt-get install nodejs npm")
    if not script.exists():
        CHP.mkdir(parents=True, exist_ok=True)
        install = [npm, "install", "--no-fund", "--no-audit", "--ignore-scripts", "--prefix", str(CHP), PACKAGE]
        done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode != 0:
            raise UnmeasurableError(f"npm cannot install {PACKAGE}: {done.stderr[-1000:]}")
    return [node, str(script.resolve())]


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@contextlib.contextmanager
def _page(place: Path) -> Iterator[Path]:
    """nginx with a page of 1 KiB at a Unix socket."""
    socket = place / "page.sock"
    environment = os.environ | {"BERTH_SOCKET": str(socket)}
    script = str(Path(__file__).with_name("web_page.sh"))
    with subprocess.Popen(["sh", script], env=environment, stderr=subprocess.DEVNULL) as nginx:
        try:
            wait_for(socket.exists, what="nginx to listen")
            yield socket
        finally:
            nginx.terminate()


@contextlib.contextmanager
def _haproxy(place: Path, port: int, socket: Path) -> Iterator[None]:
    """HAProxy with one grant, whose server is the page itself."""
    key = f"{hashlib.sha256(COOKIE.encode()).hexdigest()}@{HOST}"
    with asyncio.Runner() as runner:
        url = f"http://berth.localhost:{port}"
        haproxy = Haproxy(loopback_settings(url, api_socket=place / "api.sock", directory=place))
        runner.run(haproxy.__aenter__())
        try:
            runner.run(haproxy.add(GrantRoute(key, "s1", socket)))
            yield
        finally:
            runner.run(haproxy.__aexit__(None, None, None))


@contextlib.contextmanager
def _chp(program: list[str], port: int, socket: Path) -> Iterator[None]:
    """configurable-http-proxy with one route, to the page."""
    api = free_port()
    words = ["--ip", "127.0.0.1", "--port", str(port), "--api-ip", "127.0.0.1", "--api-port", str(api)]
    environment = os.environ | {"CONFIGPROXY_AUTH_TOKEN": TOKEN, "NODE_ENV": "production"}
    argv = [*program, *words, "--log-level", "error"]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as proxy:
        try:
            wait_for(lambda: _add_route(api, socket), what="configurable-http-proxy to take a route")
            yield
        finally:
            proxy.terminate()


def _add_route(api: int, socket: Path) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{api}/api/routes/",
        json.dumps({"target": f"unix+http://{str(socket).replace('/', '%2F')}"}).encode(),
        {"Authorization": f"token {TOKEN}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - of this machine
            return bool(answer.status == 201)
    except OSError:
        return False
