"""`make vm-bench`: measure volumes on NFS, in the guest that $VM_STATE names, against the same without Berth there.

    python -m tests.bench.file_server [--runs N]

Under emulation only ratios mean something. File server and client are one machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.errors import LabError
from tests.bench.harness import in_turns, narrate
from tests.bench.report import FEWEST_RUNS, Result, Target, UnmeasurableError, as_json, result, table
from tests.site import guest_site, vm
from tests.vm.person import WAIT, Person

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SNAPSHOT, CLONE, UNTAR = "snapshot", "clone", "home-untar"
TARGETS = {SNAPSHOT: Target(1.5), CLONE: Target(1.5), UNTAR: Target(1.8)}
FILES, FILE_BYTES, SMALL_BYTES = 200, 50_000, 2_000
SESSION = "measured"
ROOT = "/shared/berth/alice"
API = f"curl -sf --unix-socket {guest_site.API_SOCKET} -H content-type:application/json http://localhost/v1/sessions"
MEMORY = "/dev/shm"  # noqa: S108 - in the guest
TAR = f"{MEMORY}/small.tar"
COPY, BARE = "/shared/copies/copy", "/shared/copies/bare"
CLOCK = "s=$EPOCHREALTIME; {}; e=$EPOCHREALTIME; echo $((${{e/./}} - ${{s/./}}))"
"""A script for bash. It writes how many microseconds a command took."""
OUTPUT = "build/vm-bench-{site}.json"


def files(folder: str, size: int) -> str:
    """Return a script that makes FILES files of `size` random bytes in a new folder, 100 in each folder below it."""
    program = (
        "import os, sys\n"
        f"for i in range({FILES}):\n"
        f"    path = f'{{sys.argv[1]}}/d{{i // 100}}'\n"
        "    os.makedirs(path, exist_ok=True)\n"
        f"    open(f'{{path}}/f{{i}}', 'wb').write(os.urandom({size}))\n"
    )
    return f"rm -rf {folder}; python3 -c {shlex.quote(program)} {folder}"


MAKE_TAR = f"{files(f'{MEMORY}/small', SMALL_BYTES)}; cd {MEMORY}; tar -cf {TAR} small; rm -rf small"
UNPACK = "rm -rf small; mkdir small; cd small; sync -f .; " + CLOCK.format(f"tar -xf {TAR}")


@dataclass(frozen=True, slots=True)
class Kept:
    """A stopped session of alice's with many files in its home."""

    alice: Person
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def home(self) -> str:
        """Return the path of the home's top."""
        session = self.alice.show(SESSION)["id"]
        record = json.loads(self.alice.sh(f"cat {ROOT}/sessions/{session}/volumes.json"))
        return f"{ROOT}/layers/{record['home']['top']}/tree"

    def snapshot(self) -> float:
        """Change a file, off the clock, and take a snapshot."""
        self.alice.sh(f"echo $RANDOM >{self.home()}/note; sync -f /shared")
        return self._operation(f"{SESSION}/snapshots", {}, SESSION)

    def clone(self) -> float:
        """Clone the session; the clone is deleted off the clock."""
        name = f"clone-{next(self.numbers)}"
        self.alice.sh("sync -f /shared")
        took = self._operation(f"{SESSION}/clone", {"name": name}, name)
        self.alice.ok("delete", name, "--purge", "--yes", *WAIT)
        return took

    def copy(self) -> float:
        """Copy the home's files with `cp -a`, to the same file system, and have the copy on disk."""
        copy = CLOCK.format(f"cp -a {self.home()} {COPY} && sync -f {COPY}")
        took = seconds(self.alice.sh(f"sync -f /shared; {copy}"))
        self.alice.sh(f"rm -rf {COPY}")
        return took

    def _operation(self, path: str, body: dict[str, str], session: str) -> float:
        """Ask the API, and look ten times a second whether the operation is done."""
        look = f'{API}/{session} | grep -q \'"status":"done"\''
        ask = f"{API}/{path} -d '{json.dumps(body)}' >/dev/null; until {look}; do sleep 0.1; done"
        return seconds(self.alice.sh(CLOCK.format(ask)))


def measure(alice: Person, runs: int) -> Iterator[Result]:
    """Yield the result of each benchmark. LabError, UnmeasurableError or AssertionError if something fails."""
    alice.guest.sh(
        "install -d -o alice $(findmnt -n -o SOURCE /shared | cut -d: -f2)/copies"
    )  # root is squashed on NFS
    alice.ok("start", SESSION, "--profile", "base", "--mem=600M", *WAIT)
    yield measure_untar(alice, runs)
    alice.inside(SESSION, files("many", FILE_BYTES))
    alice.ok("stop", SESSION, *WAIT)
    kept = Kept(alice)
    yield measured(SNAPSHOT, kept.snapshot, kept.copy, runs)
    yield measured(CLONE, kept.clone, kept.copy, runs)


def measure_untar(alice: Person, runs: int) -> Result:
    alice.sh(f"{MAKE_TAR}; mkdir -p {BARE}")
    alice.inside(SESSION, f"[ -e {TAR} ] || {{ {MAKE_TAR}; }}")

    def ours() -> float:
        return seconds(alice.inside(SESSION, UNPACK))

    def peer() -> float:
        return seconds(alice.sh(f"cd {BARE}; {UNPACK}"))

    found = measured(UNTAR, ours, peer, runs)
    alice.inside(SESSION, "rm -rf small")
    alice.sh(f"rm -rf {BARE} {TAR}")
    return found


def measured(name: str, ours: Callable[[], float], peer: Callable[[], float], runs: int) -> Result:
    taken = in_turns({"ours": ours, "peer": peer}, runs, name=name, unit="s")
    return result(name, taken["ours"], taken["peer"], "s", TARGETS[name])


def seconds(printed: str) -> float:
    """Return what CLOCK has measured, from the last line of a script's output."""
    return int(printed.splitlines()[-1]) / 1e6


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.file_server")
    parser.add_argument("--runs", type=int, default=FEWEST_RUNS, help=f"of each side (default: {FEWEST_RUNS})")
    options = parser.parse_args(argv)
    state = Path(os.environ.get("VM_STATE") or vm.SHELL)
    try:
        site = vm.site_of(state)
        with tempfile.TemporaryDirectory() as laptop:
            alice = Person.of(vm.guest(state), "alice", Path(laptop), personal=False)
            results = list(measure(alice, options.runs))
            driver = alice.show(SESSION)["volumes"]["driver"]
    except (LabError, UnmeasurableError, AssertionError) as error:
        narrate(f"bench: {error}")
        return 1
    output = Path(OUTPUT.format(site=site))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(as_json(results))
    print(f"{site}, driver {driver}")
    print(table(results), end="")
    narrate(f"written to {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
