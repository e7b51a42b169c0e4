"""Berth on the lab, installed as an operator would do it: accounts, directories, configuration, four services.

Standard library only: `make demo` runs it before anything is installed. What systemd does on a real site (start,
restart, kill) is done here by name and process id, so that tests can do it at the worst moment.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import layers, lifecycle, publish
from slurm.lab.errors import LabError
from slurm.lab.paths import LabPaths, cache_root
from slurm.lab.preflight import check_host
from slurm.lab.progress import ProgressLog, pause_s
from slurm.lab.spec import LOGIN, LabBind, LabSpec, PublishedPort
from tests.lab_cluster import Lab

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
DEMO = "lab"
"""The lab of the demonstration."""
SOURCE = "/opt/berth/src"
"""The path of the checkout in the lab."""
WRITABLE = "/opt/berth/writable"
"""The part of the checkout that root in the lab may write to: bytecode for the lab's Python, as pip makes it.

Without it each command compiles the modules that it imports, which is a third of its time.
"""
THERE = f"{SOURCE}/{HERE.relative_to(CHECKOUT)}"
SERVICE_ACCOUNT = "berth"
GATEWAY_ACCOUNT = "berth-gateway"
WEB_ACCOUNT = "berth-web"
PROFILE_TEAM = "carol"
"""The user whom this site lets publish profiles."""
PEERS = HERE / "peers-requirements.txt"
GATEWAY_PORT = 2222
WEB_PORT = 8080
WEB_HOST = "portal.berth.localhost"
"""The host name of the portal: web.url of config.yaml."""
BUILD_TIMEOUT = 1800
"""Seconds for one profile, over a slow network, on a machine that builds others too."""
WAIT_LIMIT_S = 120
"""Seconds for one service to start or to end; as in tests/deadlines.py, it only ends what hangs."""

COMMANDS = {
    "broker": (
        "root",
        "exec berth-launcher --account berth --storage '/shared/berth/{user}' -- /usr/local/bin/berth controller",
    ),
    "gateway": (GATEWAY_ACCOUNT, "exec /usr/local/bin/berth gateway"),
    "web": (WEB_ACCOUNT, "exec /usr/local/bin/berth web"),
}
"""Each service: its account, and its command. The launcher starts the controller."""


class SiteError(LabError):
    """A step of the installation failed; the message names the step and what it printed."""


@dataclass(frozen=True, slots=True)
class Site:
    """Berth on one lab."""

    lab: Lab

    def run(self, command: str, *, user: str, seconds: float = 60, stdin: bytes = b"") -> str:
        """Run a command line on the login node as `user`; its output. SiteError if it fails or takes too long."""
        try:
            done = self.lab.run(shlex.split(command), user=user, seconds=seconds, stdin=stdin)
        except subprocess.TimeoutExpired:
            raise SiteError(f"`{command}` did not end within {seconds:g} s") from None
        if done.returncode != 0:
            raise SiteError(f"`{command}` ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
        return done.stdout.decode()

    def start(self, service: str, *, crash_at: str = "", stop_at: str = "") -> None:
        """Start a service in the background of the login node, perhaps armed: to die or to stop at a failpoint."""
        account, command = COMMANDS[service]
        export = "".join(
            f"export {variable}={point}; "
            for variable, point in (("BERTH_CRASH_AT", crash_at), ("BERTH_STOP_AT", stop_at))
            if point
        )
        self.lab.sh(
            f"setsid -f setpriv --reuid={account} --regid=$(id -g {account}) --init-groups "
            f"sh -c 'echo $$ >/run/berth-services/{service}.pid; {export}{command}' "
            f">>/var/log/berth/{service}.log 2>&1 </dev/null"
        )

    def pid(self, service: str) -> int | None:
        """The service's process id in the login node; None if it does not run."""
        script = f"p=$(cat /run/berth-services/{service}.pid) && kill -0 $p && echo $p"
        done = self.lab.run(["sh", "-c", script])
        return int(done.stdout) if done.returncode == 0 else None

    def armed(self, service: str) -> bool:
        """Whether the service runs and has a failpoint armed."""
        pid = self.pid(service)
        return (
            pid is not None
            and self.lab.run(["grep", "-qzE", "^BERTH_(CRASH|STOP)_AT=", f"/proc/{pid}/environ"]).returncode == 0
        )

    def kill(self, service: str, signal: str = "TERM") -> None:
        """Send a signal to a service that runs, and wait until it has gone."""
        pid = self.pid(service)
        if pid is not None:
            self.lab.sh(f"kill -{signal} {pid}")
        wait_until(lambda: self.ended(service), f"{service} to end", WAIT_LIMIT_S)

    def ended(self, service: str) -> bool:
        """Whether the service is gone, and the controller too, which outlives a killed launcher by a moment."""
        if service == "broker":
            controller = ["pgrep", "-u", SERVICE_ACCOUNT, "-f", "berth(-cli)? controller$"]
            if self.lab.run(controller).returncode == 0:
                return False
        return self.pid(service) is None

    def new_gateway_workers(self) -> None:
        """Have the gateway served by new processes, which remember neither failures nor keys nor what they once had
        memory for.
        """

        def workers() -> set[str]:
            return set(self.lab.sh(f"pgrep -u {GATEWAY_ACCOUNT} -f -- --worker || true").split())

        before = workers()
        self.lab.sh(f"kill -HUP {self.pid('gateway')}")
        wait_until(lambda: not before & (now := workers()) and len(now) == len(before), "new workers", WAIT_LIMIT_S)

    def controller_pid(self) -> int:
        """The controller's process id in the login node: the launcher's child."""
        return int(self.lab.sh("pgrep -P $(cat /run/berth-services/broker.pid) | head -1"))

    def api_answers(self) -> bool:
        """Whether the controller answers an ordinary user; asked often by who waits, so without `berth`."""
        curl = ["curl", "-sf", "-m", "5", "-o", "/dev/null", "--unix-socket", "/run/berth/api.sock"]
        return self.lab.run([*curl, "http://localhost/v1/sessions"], user="alice").returncode == 0

    def gateway_answers(self) -> bool:
        return self.lab.run(["timeout", "2", "bash", "-c", f"</dev/tcp/login/{GATEWAY_PORT}"]).returncode == 0

    def web_answers(self) -> bool:
        """Whether a browser gets the portal's login page."""
        curl = ["curl", "-sf", "-m", "5", "-o", "/dev/null", "--header", f"Host: {WEB_HOST}"]
        return self.lab.run([*curl, f"http://127.0.0.1:{WEB_PORT}/login"], user="alice").returncode == 0

    def log(self, service: str) -> str:
        return self.lab.sh(f"cat /var/log/berth/{service}.log")


def wait_until(condition: Callable[[], bool], what: str, seconds: float) -> None:
    """Wait for a condition; SiteError names it when it has not come true within `seconds`."""
    began_at = time.monotonic()
    while not condition():
        if time.monotonic() > began_at + seconds:
            raise SiteError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause_s(began_at))


def up(
    name: str = DEMO,
    *,
    publish_port: int | None = None,
    publish_web: int | None = None,
    progress: ProgressLog | None = None,
) -> Site:
    """The lab with Berth on it, made or found running.

    `publish_port`, `publish_web`: loopback ports of the machine that lead to the gateway and to berth-web.
    """
    progress = progress or ProgressLog()
    cache = cache_root()
    place = LabPaths.find(name)
    check_host(place, cache, progress)
    pyslurm = layers.pyslurm_layer(cache, progress)
    berth = layers.build_layer(
        cache, "berth", HERE / "layer.sh", [CHECKOUT / "requirements.lock"], parents=[pyslurm], progress=progress
    )
    peers = [layers.build_layer(cache, "peers", HERE / "peers.sh", [PEERS], progress=progress)] if name != DEMO else []
    spec = LabSpec(
        name=name,
        operators=(SERVICE_ACCOUNT,),
        layers=tuple(map(str, (pyslurm, berth, *peers))),
        binds=(
            LabBind(str(CHECKOUT), SOURCE, read_only=True),
            LabBind(str(CHECKOUT), WRITABLE),
            LabBind(str(images(cache, "-demo" if name == DEMO else "")), "/profiles"),
        ),
    )
    ports = {GATEWAY_PORT: publish_port, WEB_PORT: publish_web}
    wanted = [PublishedPort("127.0.0.1", port, LOGIN, node_port) for node_port, port in ports.items() if port]
    lifecycle.bring_up(place, spec, wanted, cache, progress)
    site = Site(Lab.find(name))
    deploy(site, progress, web_port=publish_web or WEB_PORT)
    return site


def build_profile(site: Site, name: str, progress: ProgressLog) -> None:
    """Build one of the shipped profiles, or of the recipes beside this file, as the profile team would, unless it is
    built, and show each step as it begins.

    SiteError has the last that the build said, which names its log.
    """
    if site.lab.run(["berth", "profile", "show", name], user=PROFILE_TEAM).returncode == 0:
        return
    progress.say(f"building the profile {name} (once; kept in the cache)")
    recipe = f"{THERE}/{name}.yaml" if (HERE / f"{name}.yaml").exists() else name
    limit = ["timeout", "--foreground", "--signal=INT", "--kill-after=30", str(BUILD_TIMEOUT)]
    argv = site.lab.argv([*limit, "berth", "profile", "build", recipe], user=PROFILE_TEAM, host_network=True)
    said = deque[str](maxlen=20)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as build:
        assert build.stderr is not None
        for line in build.stderr:
            said.append(line)
            progress.say(f"{name}: {line.rstrip()}")
    if build.returncode != 0:
        how = f"did not end within {BUILD_TIMEOUT} s" if build.returncode == 124 else "failed"  # timeout(1)
        raise SiteError(f"building the profile {name} {how}:\n{''.join(said)}")
    progress.say(f"profile {name} built")


def images(cache: Path, suffix: str = "") -> Path:
    """Return the directory of the images, which outlives the lab: one for each state of the sources that build them.

    The demonstration has one of its own, without the images of the tests.
    """
    state = hashlib.sha256()
    for file in (*sorted((CHECKOUT / "profiles").rglob("*")), *_recipe_files()):
        if file.suffix in {".py", ".yaml", ".sh"}:
            state.update(file.read_bytes())
    directory = cache / f"images-{state.hexdigest()[:16]}{suffix}"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _recipe_files() -> list[Path]:
    """Return the recipes beside this file, and what they copy into images."""
    recipes = sorted(HERE.glob("*.yaml"))
    sources = [HERE / source for recipe in recipes for source in re.findall(r"source: *([^,}\s]+)", recipe.read_text())]
    return [*recipes, *sources]


def published(site: Site, port: int) -> bool:
    """Whether that loopback port of the machine leads to this site's gateway already."""
    return PublishedPort("127.0.0.1", port, LOGIN, GATEWAY_PORT) in publish.published_ports(site.lab.place)


def deploy(site: Site, progress: ProgressLog, *, web_port: int = WEB_PORT) -> None:
    """Install Berth on a running lab and start its services; what is there already stays.

    `web_port`: the port at which browsers reach berth-web.
    """
    site.run("sh -eu", user="root", stdin=_INSTALL.encode(), seconds=WAIT_LIMIT_S)
    config = (HERE / "config.yaml").read_text().replace(f"localhost:{WEB_PORT}", f"localhost:{web_port}")
    site.run("sh -c 'cat >/etc/berth/config.yaml'", user="root", stdin=config.encode())
    answering = {"broker": site.api_answers, "gateway": site.gateway_answers, "web": site.web_answers}
    for service, answers in answering.items():
        if site.pid(service) is None:
            progress.say(f"starting {service}")
            site.start(service)
        try:
            wait_until(answers, f"{service} to answer", WAIT_LIMIT_S)
        except SiteError as error:
            raise SiteError(f"{error}; the end of its log:\n{site.log(service)[-2000:]}") from None


_INSTALL = f"""
for account in {GATEWAY_ACCOUNT} {WEB_ACCOUNT}; do
    id $account >/dev/null 2>&1 || useradd --system --home-dir /var/lib/$account --shell /usr/sbin/nologin $account
done
install -d -m 755 /etc/berth /var/log/berth
install -d -m 1777 /run/berth-services
install -d -m 755 -o {SERVICE_ACCOUNT} /run/berth
install -d -m 700 -o {SERVICE_ACCOUNT} /var/lib/berth
install -d -m 700 -o {GATEWAY_ACCOUNT} /var/lib/{GATEWAY_ACCOUNT}
install -d -m 711 -o {WEB_ACCOUNT} /run/berth-web
install -d -m 1777 /shared/berth
install -d -m 755 -o {PROFILE_TEAM} /profiles
install -d -m 755 /shared/datasets
cd {WRITABLE}
/opt/berth/venv/bin/python -m compileall -q -s {WRITABLE} -p {SOURCE} broker profiles slurm tui
"""

if __name__ == "__main__":
    up(*sys.argv[1:2])
