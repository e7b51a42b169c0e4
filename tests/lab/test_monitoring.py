"""Prometheus reads the metrics of controller, gateway and berth-web, and answers every query of the dashboard."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.deadlines import DEADLINE_S
from tests.docs.generate import ROOT
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

PORTS = (9417, 9418, 9419)
"""Of controller, gateway and berth-web on the login node."""
PANELS: list[dict[str, Any]] = json.loads((ROOT / "docs/monitoring/berth-dashboard.json").read_text())["panels"]
CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: berth
    static_configs: [{{targets: {targets}}}]
"""
WITHOUT_VALUES = {"Web services by state", "Browsers: answers by class"}
"""Panels that are empty until a browser opens a service."""


@contextmanager
def forwarded(lab: Lab, port: int) -> Iterator[str]:
    """Serve the metrics of a port of the login node at a loopback address of this machine, which is yielded."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            done = lab.run(["curl", "-sf", "-m", "10", f"http://127.0.0.1:{port}/metrics"])
            self.send_response(200 if done.returncode == 0 else 502)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(done.stdout)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def prometheus(directory: Path, targets: list[str]) -> Iterator[str]:
    """Run Prometheus on these targets, and yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (directory / "prometheus.yml").write_text(CONFIG.format(targets=json.dumps(targets)))
    options = (f"--storage.tsdb.path={directory}/data", f"--web.listen-address={address}")
    argv = ["prometheus", f"--config.file={directory}/prometheus.yml", *options]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield address
        finally:
            process.terminate()


def answer(address: str, query: str) -> list[dict[str, Any]]:
    """Return the samples of a query; none while Prometheus starts."""
    url = f"http://{address}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
            said = json.load(response)
    except OSError:
        return []
    assert said["status"] == "success", said
    return list(said["data"]["result"])


def test_every_query_of_the_dashboard_has_an_answer(alice: User, name: str, tmp_path: Path) -> None:
    lab = alice.site.lab
    alice.ok("start", name, "--profile", "base")
    with ExitStack() as running:
        targets = [running.enter_context(forwarded(lab, port)) for port in PORTS]
        address = running.enter_context(prometheus(tmp_path, targets))
        wait_for(lambda: len(answer(address, 'up{job="berth"} == 1')) == len(PORTS), what="three targets")
        alice.laptop.ok(name, "true")
        queries = {panel["title"]: panel["targets"][0]["expr"].replace("[5m]", "[30s]") for panel in PANELS}

        def unanswered() -> set[str]:
            return {title for title, query in queries.items() if not answer(address, query)}

        wait_for(lambda: unanswered() <= WITHOUT_VALUES, what="an answer to every query")
