"""`make demo`: from a bare machine to ssh into a GPU session, on a real Slurm cluster in namespaces of this machine.

Standard library only. Each step says what it does; what alice would type is shown as she would type it.
"""

from __future__ import annotations

import argparse
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from slurm.lab import publish
from slurm.lab.errors import LabError
from slurm.lab.place import Place
from slurm.lab.preflight import check_root
from slurm.lab.progress import Progress
from tests.site import deploy
from tests.site.laptop import Laptop
from tests.site.programs import main as install_programs

BUILD = Path("build")
SESSION = "dev"
PROFILE = "triton-xpu"


class DemoError(Exception):
    """A step of the demonstration failed."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument(
        "--port", type=int, default=2222, help="loopback port of this machine that leads to the gateway"
    )
    options = parser.parse_args(argv)
    try:
        check_root()
        run(options.port, Progress())
    except (LabError, deploy.SiteError, DemoError) as error:
        print(f"\ndemo: {error}\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; `make demo` goes on from here, `make lab-down` takes all away", file=sys.stderr)
        return 130
    return 0


def run(port: int, progress: Progress) -> None:
    if install_programs(["openssh-client"]) != 0:
        raise DemoError("ssh is missing")
    site = deploy.up("lab", publish_port=_checked(port), progress=progress)
    deploy.build_profile(site, PROFILE, progress)
    laptop = Laptop.of(site, "alice", BUILD, port)
    show(site, f"berth start {SESSION} --profile {PROFILE} --gres=gpu:intel:1")
    jump(laptop, _WHERE)
    stamp = f"written at {time.strftime('%H:%M:%S')}"
    jump(laptop, f"echo {shlex.quote(stamp)} > kept.txt; cat kept.txt")
    show(site, f"berth stop {SESSION}")
    show(site, f"berth start {SESSION}")
    kept = jump(laptop, "cat kept.txt")
    if kept.strip() != stamp:
        raise DemoError(f"the file was not kept: {kept!r}")
    show(site, "berth list")
    print(_NEXT)


def show(site: deploy.Site, command: str) -> None:
    """Run a command as alice on the login node, shown with its output as she would see it."""
    print(f"\nalice@login$ {command}", flush=True)
    argv = site.lab.argv(shlex.split(command), user="alice")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=300, check=False)
    if done.returncode != 0:
        raise DemoError(
            f"`{command}` ended with {done.returncode}; the controller's log: make shell, then berth doctor"
        )


def jump(laptop: Laptop, script: str) -> str:
    """Run a script in the session with the machine's own ssh, through the gateway; its output."""
    shown = script if "\n" not in script else "<script>"
    print(f"\nlaptop$ ssh -F {laptop.config} {SESSION}.berth {shlex.quote(shown)}", flush=True)
    done = laptop.ssh(SESSION, script, seconds=60)
    sys.stdout.write(done.stdout.decode(errors="replace"))
    sys.stdout.flush()
    if done.returncode != 0:
        raise DemoError(f"ssh ended with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout.decode()


def _checked(port: int) -> int:
    """The port, unless somebody other than our own lab has it."""
    lab = Place.find("lab")
    if any(entry.port == port for entry in publish.published(lab)):
        return port
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise DemoError(f"port {port} of 127.0.0.1 is taken: make demo PORT=…") from None
    return port


_WHERE = """\
echo "user      $(id -un) on node $SLURMD_NODENAME, job $SLURM_JOB_ID"
for gpu in /dev/dri/renderD*; do
  if head -c 1 "$gpu" >/dev/null 2>&1; then echo "GPU       $gpu is ours"; else echo "GPU       $gpu is fenced off"; fi
done
echo "image     $(. /etc/os-release; echo "$PRETTY_NAME"), $(clang --version | head -1)"
clinfo -l
"""

_NEXT = """
It runs on. From here:

  ssh -F build/ssh_config dev.berth      the session, through the gateway (this machine is the laptop)
  make shell                             alice's shell on the login node: berth --help, sinfo, squeue
  make lab-down                          take it all away
"""

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
