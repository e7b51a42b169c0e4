"""A session with services that are open in a browser, and nginx on the login node in front of the same tunnel."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import network
from slurm.lab.processes import init_pid
from slurm.lab.progress import ProgressLog
from slurm.lab.spec import LOGIN
from tests.bench.report import UnmeasurableError
from tests.lab_cluster import wait_for
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.bench.ground import Ground

SESSION = "web"
PROFILE = "bench"
PAGE, ECHO = "page", "echo"
"""Services of the profile."""
VISITOR = "/opt/berth/src/tests/site/web_visitor.py"
CLIENT = Path(__file__).with_name("web_client.py")
NGINX_PORT = 18081
LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class WebGround:
    """Two ports of the login node that lead to the same service, through the same tunnel."""

    ground: Ground
    hosts: Mapping[str, str]
    cookies: Mapping[str, str]

    def headers(self, service: str) -> list[str]:
        """The headers of a request that berth-web lets through. nginx gets the same."""
        host = f"{self.hosts[service]}:{deploy.WEB_PORT}"
        return [f"Host: {host}", f"Origin: http://{host}", f"Cookie: __Host-Http-berth={self.cookies[service]}"]

    def run(self, *command: str, seconds: float = LIMIT_S) -> str:
        """Run a program of this machine in the login node's network; what it prints."""
        done = subprocess.run(
            [*in_network(self.ground), *command], capture_output=True, timeout=seconds, check=False, text=True
        )
        if done.returncode != 0:
            raise UnmeasurableError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout}")
        return done.stdout

    def ask(self, *command: str) -> str:
        """Run curl in the login node's network; what it prints, also after a failure."""
        done = subprocess.run(
            [*in_network(self.ground), *command], capture_output=True, timeout=LIMIT_S, check=False, text=True
        )
        return done.stdout

    def client(self, what: str, service: str, port: int, amount: str) -> float:
        """Return the measurement of tests/bench/web_client.py at a port."""
        return float(self.run("python3", str(CLIENT), what, str(port), amount, *self.headers(service)))


def in_network(ground: Ground) -> list[str]:
    return ["nsenter", f"--net={network.NAMESPACES / ground.lab.place.netns(LOGIN)}"]


@contextlib.contextmanager
def opened(ground: Ground) -> Iterator[WebGround]:
    """Run the session during the block, with its services open, which nginx serves too."""
    deploy.build_profile(ground.site, PROFILE, ProgressLog())
    ground.sh(f"berth start {SESSION} --profile {PROFILE} --mem=1G", seconds=120)
    try:
        entered = json.loads(ground.sh(f"python3 {VISITOR} open {SESSION} {PAGE} {ECHO}", seconds=120))
        hosts = {service: host for service, (host, _) in entered.items()}
        cookies = {service: cookie for service, (_, cookie) in entered.items()}
        with _nginx(ground):
            yield WebGround(ground, hosts, cookies)
    finally:
        ground.sh(f"berth stop {SESSION} && berth delete --yes {SESSION}")


def tunnel_socket(ground: Ground, service: str) -> str:
    """The path, on this machine, of the socket that berth-web's tunnel has for a service."""
    found = ground.lab.sh(f"find /run/berth-web/t -name {service}.sock").splitlines()
    if len(found) != 1:
        raise UnmeasurableError(f"there is not one tunnel to {service}, but {len(found)}")
    return f"/proc/{init_pid(ground.lab.place, LOGIN)}/root{found[0]}"


@contextlib.contextmanager
def _nginx(ground: Ground) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as place:
        config = NGINX.format(
            place=place, port=NGINX_PORT, page=tunnel_socket(ground, PAGE), echo=tunnel_socket(ground, ECHO)
        )
        Path(place, "nginx.conf").write_text(config)
        argv = [*in_network(ground), "nginx", "-e", "stderr", "-c", f"{place}/nginx.conf"]
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as nginx:
            try:
                curl = [*in_network(ground), "curl", "-sf", "-o", "/dev/null", f"http://127.0.0.1:{NGINX_PORT}/"]
                wait_for(lambda: subprocess.run(curl, check=False).returncode == 0, what="nginx to answer")
                yield
            finally:
                nginx.terminate()


NGINX = """
daemon off;
user root;
worker_processes auto;
pid {place}/pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 10000000;
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy; fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi; scgi_temp_path {place}/scgi;
  upstream page {{ server unix:{page}; keepalive 64; keepalive_requests 10000000; }}
  upstream echo {{ server unix:{echo}; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://page; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
    }}
    location /ws {{
      proxy_pass http://echo; proxy_http_version 1.1; proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_buffering off;
    }}
  }}
}}
"""
