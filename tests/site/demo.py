"""`make demo`: from a bare machine to ssh into a GPU session, on a real Slurm cluster in namespaces of this machine.

Standard library only. Each step says what it does; what alice would type is shown as she would type it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab import publish
from slurm.lab.errors import LabError
from slurm.lab.paths import LabPaths
from slurm.lab.preflight import check_root
from slurm.lab.progress import ProgressLog
from tests.site import deploy
from tests.site.client_settings import connect_sessions, disconnect_sessions, read_client_settings
from tests.site.laptop import Laptop
from tests.site.programs import main as install_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

BUILD = Path("build")
SESSION = "dev"
PROFILE = "triton-xpu"
OTHER_PROFILE = "base"
"""For a clone on another profile, in the tutorial."""


READ = "python3 -m slurm.lab exec login -- cat"
CONTROLLER_LOG = f"{READ} /var/log/berth/broker.log"
GATEWAY_LOG = f"{READ} /var/log/berth/gateway.log"
LAB_LOGS = "python3 -m slurm.lab logs"
LOOK = "`make shell`, there `berth doctor`; `make demo` continues from here, `make lab-down` removes the cluster"


class DemoError(Exception):
    """A step of the demonstration failed: which and how, the command that prints its log, and the remedy."""

    def __init__(self, step: str, how: str, *, log: str = "", remedy: str = LOOK) -> None:
        lines = [f"{step}: {how.strip()}", *([f"  log:    {log}"] if log else []), f"  remedy: {remedy}"]
        super().__init__("\n".join(lines))


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument(
        "--port", type=int, default=2222, help="loopback port of this machine that leads to the gateway"
    )
    parser.add_argument("--web-port", type=int, default=8080, help="loopback port of this machine for its browser")
    parser.add_argument("--offline", action="store_true", help="sessions reach no package registries")
    options = parser.parse_args(argv)
    try:
        with step("begin", remedy="run it as root"):
            check_root()
        run(options.port, options.web_port, ProgressLog(), offline=options.offline)
    except DemoError as error:
        print(f"\ndemo: {error}\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            "\ndemo: interrupted; `make demo` continues from here, `make lab-down` removes the cluster", file=sys.stderr
        )
        return 130
    return 0


def run(port: int, web_port: int, progress: ProgressLog, *, offline: bool = False) -> None:
    with step("read the machine's client settings of package registries"):  # before anything changes
        settings = None if offline else read_client_settings(os.environ)
    if install_programs(["openssh-client"]) != 0:
        raise DemoError("begin", "ssh is missing", remedy="apt-get install openssh-client")
    with step("bring up the cluster with Berth on it", log=f"{LAB_LOGS}; {CONTROLLER_LOG}"):
        ports = _checked(port, "PORT"), _checked(web_port, "WEB_PORT")
        site = deploy.up(deploy.DEMO, publish_port=ports[0], publish_web=ports[1], progress=progress)
    _build_profiles(site, progress)
    with step("lead sessions to the package registries"):
        if settings is None:
            disconnect_sessions(site.lab)
        else:
            connect_sessions(site.lab, settings)
    with step("let the laptop's key in", log=CONTROLLER_LOG):
        laptop = Laptop.of(site, "alice", BUILD, port)
    show(site, f"berth start {SESSION} --profile {PROFILE} --gres=gpu:intel:1")
    jump(laptop, _WHERE, about="in it: the user, the node, the GPUs, the image, and OpenCL's devices")
    stamp = f"written at {time.strftime('%H:%M:%S')}"
    jump(laptop, f"echo {stamp} > kept.txt; cat kept.txt")
    show(site, f"berth stop {SESSION}")
    show(site, f"berth start {SESSION}")
    kept = jump(laptop, "cat kept.txt")
    if kept.strip() != stamp:
        raise DemoError("compare the file", f"it was not kept: {kept!r}", log=CONTROLLER_LOG)
    show(site, "berth list")
    print(_NEXT.format(registries=_OFFLINE if offline else ""))


def _build_profiles(site: deploy.Site, progress: ProgressLog) -> None:
    """Build both profiles at the same time; DemoError for the first that fails, once both have ended."""
    with ThreadPoolExecutor() as pool:
        builds = {each: pool.submit(deploy.build_profile, site, each, progress) for each in (PROFILE, OTHER_PROFILE)}
    for profile, build in builds.items():
        with step(
            f"build the profile {profile}", remedy="correct the reported problem; `make demo` continues from here"
        ):
            build.result()


def show(site: deploy.Site, command: str) -> None:
    """Run a command as alice on the login node, shown with its output as she would see it."""
    print(f"\nalice@login$ {command}", flush=True)
    argv = site.lab.argv(shlex.split(command), user="alice")
    with step(f"`{command}`", log=CONTROLLER_LOG):
        subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=300, check=True)


def jump(laptop: Laptop, script: str, *, about: str = "") -> str:
    """Run a script in the session with the machine's own ssh, through the gateway; its output.

    `about` is printed instead of a long script.
    """
    shown = f" # {about}" if about else shlex.quote(script)
    print(f"\nlaptop$ ssh -F {laptop.config} {SESSION}.berth {shown}", flush=True)
    with step("ssh into the session", log=GATEWAY_LOG, remedy=f"`make shell`, there `berth logs {SESSION}`"):
        done = laptop.ssh(SESSION, script, seconds=60)
        sys.stdout.write(done.stdout.decode(errors="replace"))
        sys.stdout.flush()
        done.check_returncode()
    return done.stdout.decode()


@contextlib.contextmanager
def step(name: str, *, log: str = "", remedy: str = LOOK) -> Iterator[None]:
    """Raise whatever a step fails with as a DemoError; what the failure itself says of log and remedy comes first."""
    try:
        yield
    except LabError as error:
        raise DemoError(name, error.message, log=str(error.log or log), remedy=error.hint or remedy) from error
    except subprocess.TimeoutExpired as error:
        raise DemoError(name, f"not done within {error.timeout:g} s", log=log, remedy=remedy) from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else error.stderr or ""
        raise DemoError(name, f"ended with {error.returncode}\n{said[-2000:]}", log=log, remedy=remedy) from error
    except AssertionError as error:  # what a command of Lab.sh fails with
        raise DemoError(name, str(error), log=log, remedy=remedy) from error


def _checked(port: int, setting: str) -> int:
    """Return the port, unless another program than our own lab has it."""
    lab = LabPaths.find("lab")
    if any(entry.port == port for entry in publish.published_ports(lab)):
        return port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise DemoError(
                "begin", f"port {port} of 127.0.0.1 is taken", remedy=f"another one: make demo {setting}=…"
            ) from None
    return port


_WHERE = """\
echo "user      $(id -un) on node $SLURMD_NODENAME, job $SLURM_JOB_ID"
for gpu in /dev/dri/renderD*; do
  if head -c 1 "$gpu" >/dev/null 2>&1; then whose="belongs to this job"; else whose="is closed for this job"; fi
  echo "GPU       $gpu $whose"
done
echo "image     $(. /etc/os-release; echo "$PRETTY_NAME"), $(clang --version | head -1)"
clinfo -l
"""

_NEXT = """
The cluster keeps running. Next steps:

  ssh -F build/ssh_config dev.berth      the session, through the gateway (this machine is the laptop)
  make portal                            a link that logs this machine's browser in as alice
  make shell                             alice's shell on the login node: berth --help, sinfo, squeue
  docs/tutorial/first-session.md         a day's work in this session, step by step
  make lab-down                          take it all away
{registries}"""

_OFFLINE = """
Sessions reach no package registries (OFFLINE=1): `sudo apt-get install` and `pip install` fail in them. `make demo`
without OFFLINE=1 leads them to the registries.
"""

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
