"""The virtual machine with Berth on it: `python3 -m tests.site.vm COMMAND`. Standard library only.

`run` starts a site's guest, runs a command against it and ends it; `shell`, `push` and `down` are for people.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.errors import LabError
from slurm.lab.paths import cache_root
from slurm.lab.preflight import check_disk, check_root
from slurm.lab.progress import ProgressLog
from slurm.vm import image, qemu
from slurm.vm.guest import Guest
from tests.site import guest_site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STATES = guest_site.CHECKOUT / "build/vm"
SHELL = STATES / "shell"
TEST = STATES / "test"
DEFAULT = "ext4"
FREE_GIB = 10


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    try:
        check_root()
        check_disk([STATES, cache_root()], FREE_GIB)
        STATES.mkdir(parents=True, exist_ok=True)
        return int(options.run(options) or 0)
    except LabError as error:
        print(error.render(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def guest(state: Path) -> Guest:
    """Return the guest of this state directory."""
    return Guest(state.resolve(), image.key(cache_root()))


def site_of(state: Path) -> str:
    """Return the name of the site that the guest was started as; LabError if none runs."""
    if qemu.running(state) is None:
        raise LabError(f"no guest runs in {state}", hint="make vm-shell, or python3 -m tests.site.vm up")
    return (state / "site").read_text()


def start(state: Path, site: str, progress: ProgressLog) -> Guest:
    """Start a guest of this site."""
    machine = guest(state)
    try:
        machine.start(guest_site.site_image(site, progress), [guest_site.GATEWAY_PORT], progress=progress)
        (state / "site").write_text(site)
    except BaseException:
        machine.end()
        raise
    return machine


def _up(options: argparse.Namespace) -> None:
    if qemu.running(options.state) is None:
        start(options.state, options.site or DEFAULT, ProgressLog())
    elif options.site not in {None, site := site_of(options.state)}:
        raise LabError(f"the guest that runs is of the site {site}", hint="make vm-down")


def _shell(options: argparse.Namespace) -> int:
    _up(options)
    machine = guest(options.state)
    tty = sys.stdin.isatty()
    return subprocess.run(
        machine.ssh(options.command, user=options.user, tty=tty), cwd=machine.state, check=False
    ).returncode


def _push(options: argparse.Namespace) -> None:
    kind = guest_site.SITES[site_of(options.state)]
    guest_site.push(guest(options.state), kind, ProgressLog())


def _down(options: argparse.Namespace) -> None:
    guest(options.state).end()


def _run(options: argparse.Namespace) -> int:
    """Run the command on each site, on a guest of its own; the worst exit code. Tell how long each took."""
    worst = 0
    named = guest_site.SHORT if options.sites == "short" else options.sites.split(",")
    sites = [_known(site) for site in named]
    with _alone():
        for site in sites:
            began = time.monotonic()
            try:
                start(options.state, site, ProgressLog())
                up = time.monotonic()
                environment = os.environ | {"VM_STATE": str(options.state)}
                worst = max(worst, abs(subprocess.run(options.command, env=environment, check=False).returncode))
                print(f"{site}: up after {up - began:.0f} s, tests {time.monotonic() - up:.0f} s", flush=True)
            finally:
                if site != sites[-1] or not os.environ.get("KEEP_VM"):
                    guest(options.state).end()
    return worst


@contextmanager
def _alone() -> Iterator[None]:
    with (STATES / "lock").open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError("another run of the tests has this checkout's guest", hint="wait for its end") from None
        yield


def _known(site: str) -> str:
    if site not in guest_site.SITES:
        raise LabError(f"no site {site!r}", hint=f"the sites are {', '.join(guest_site.SITES)}")
    return site


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tests.site.vm")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str, state: Path = SHELL) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        added.add_argument("--state", type=Path, default=Path(os.environ.get("VM_STATE") or state), metavar="DIR")
        return added

    up = command("up", _up, "start a guest, if none runs")
    shell = command("shell", _shell, "run a command in the guest, by default a shell; start it first if none runs")
    for each in (up, shell):
        each.add_argument(
            "--site", choices=guest_site.SITES, help=f"default: that of the guest that runs, or {DEFAULT}"
        )
    shell.add_argument("--user", default="root")
    shell.add_argument("command", nargs="*")
    command("push", _push, "install the checkout's code in the guest that runs, and restart the services")
    command("down", _down, "end the guest")
    tests = command("run", _run, "run a command on a guest of each site", TEST)
    every = ",".join(guest_site.SITES)
    tests.add_argument("--sites", default=every, help=f"separated by commas, or `short` (default: {every})")
    tests.add_argument("command", nargs=argparse.REMAINDER)
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main(sys.argv[1:]))
