"""Run a command against labs of its own: up, with Berth on them, the command, down again unless KEEP_LAB is set.

`python3 -m tests.site.run [--labs N] [--older] COMMAND…`. With one lab the command finds its name in LAB_NAME; with
several, each pytest worker has one, named after it, and `-n N` is added to the command. The labs are new, and named
after the checkout: what a killed run left, here or in another checkout, is not gone on with. A LAB_NAME that is set is
taken as it is, with the lab that may be up under it. With `--older`, the root of nodes with an older Slurm is made too,
for the tests that bring such a lab up themselves. Standard library only.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slurm.lab import lifecycle
from slurm.lab.errors import LabError
from slurm.lab.paths import LabPaths, cache_root
from slurm.lab.preflight import check_root
from slurm.lab.progress import ProgressLog
from slurm.lab.releases import TRIXIE
from slurm.lab.rootfs import node_root
from tests.lab_cluster import older_name
from tests.site import deploy

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = f"test-{hashlib.sha256(os.fsencode(deploy.CHECKOUT)).hexdigest()[:6]}"
"""The name of this checkout's labs: two checkouts may run their tests on one machine."""
NAME = os.environ.get("LAB_NAME", OURS)
PROFILES = (("base", "other"), ("triton-xpu",))
"""Those of one group are built one after the other, since one may be the other's base; the groups at once."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.site.run")
    parser.add_argument(
        "--labs", type=int, default=1, help="how many labs; with more than one, pytest workers share them"
    )
    parser.add_argument("--older", action="store_true", help="make the root of nodes with an older Slurm too")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    names = [NAME] if options.labs == 1 else [f"{NAME}-gw{index}" for index in range(options.labs)]
    # In the order of collection: the longest files first.
    spread = ["--dist", "loadfile", "--no-loadscope-reorder"]
    workers = [] if options.labs == 1 else ["-n", str(options.labs), *spread]
    try:
        check_root()
        with alone():
            try:
                if NAME == OURS:
                    take_labs_down(names)
                _up(names, older=options.older)
                environment = os.environ | {"LAB_NAME": NAME}
                return subprocess.run([*options.command, *workers], env=environment, check=False).returncode
            finally:
                if not os.environ.get("KEEP_LAB"):
                    take_labs_down(names)
    except (LabError, deploy.SiteError) as error:
        print(f"tests: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


@contextmanager
def alone() -> Iterator[None]:
    """Hold this checkout's labs; LabError when another run has them."""
    lock = deploy.CHECKOUT / "build/tests.lock"
    lock.parent.mkdir(exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError("another run of the tests has this checkout's labs", hint="wait for its end") from None
        yield


def take_labs_down(names: list[str]) -> None:
    """Take labs down, and the ones with an older Slurm that tests made beside them."""
    for name in names:
        for each in (name, older_name(name)):
            lifecycle.take_down(LabPaths.find(each))


def _up(names: list[str], *, older: bool) -> None:
    """Bring the labs up, and build the profiles that tests start sessions from into the store that all labs see."""
    progress = ProgressLog()
    sites = [deploy.up(name, progress=progress) for name in names]
    with ThreadPoolExecutor() as pool:
        made = [pool.submit(node_root, cache_root(), progress, TRIXIE)] if older else []
        list(pool.map(lambda group: build_group(sites[0], group, progress), PROFILES))
        for each in made:
            each.result()


def build_group(site: deploy.Site, group: tuple[str, ...], progress: ProgressLog) -> None:
    """Build profiles one after the other, unless they are built."""
    for profile in group:
        deploy.build_profile(site, profile, progress)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main(sys.argv[1:]))
