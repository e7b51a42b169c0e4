"""`make vm-bench`: measure volumes on NFS, in the guest that $VM_STATE names, against the same without Berth there.

    python -m tests.bench.file_server [--runs N]

Under emulation only ratios mean something. Server and client are one machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.errors import LabError
from tests.bench.harness import in_turns, narrate
from tests.bench.report import FEWEST_RUNS, Result, Target, UnmeasurableError, result, table
from tests.site import vm
from tests.vm.person import WAIT, Person

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SNAPSHOT, CLONE, UNTAR = "snapshot", "clone", "home-untar"
FILES, FILE_BYTES = 2_000, 50_000
SESSION = "measured"
API = "curl -sf --unix-socket /run/berth/api.sock -H content-type:application/json http://localhost/v1/sessions"
TAR = "/dev/shm/many.tar"  # noqa: S108 - in memory, in the guest
COPY, BARE = "/shared/copies/copy", "/shared/copies/bare"
CLOCK = "s=$EPOCHREALTIME; {}; e=$EPOCHREALTIME; echo $((${{e/./}} - ${{s/./}}))"
FILL = f"""
mkdir -p many; cd many
for d in $(seq {FILES // 100}); do
  mkdir d$d
  for f in $(seq 100); do head -c {FILE_BYTES} /dev/urandom >d$d/f$f; done
done
"""
MAKE_TAR = f"""
cd /dev/shm; rm -rf many
mkdir many
for d in $(seq {FILES // 100}); do
  mkdir many/d$d
  for f in $(seq 100); do head -c 2000 /dev/zero >many/d$d/f$f; done
done
tar -cf {TAR} many; rm -rf many
"""
UNTAR_SCRIPT = "rm -rf small; mkdir small; cd small; sync -f .; " + CLOCK.format(f"tar -xf {TAR}")


@dataclass(frozen=True, slots=True)
class Volumes:
    """A stopped session of alice's with many files in its home."""

    alice: Person
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def top(self) -> str:
        """Return the path of the home's top."""
        root = "/shared/berth/alice"
        session = self.alice.show(SESSION)["id"]
        record = json.loads(self.alice.sh(f"cat {root}/sessions/{session}/volumes.json"))
        return f"{root}/layers/{record['home']['top']}/tree"

    def snapshot(self) -> float:
        self.alice.sh(f"echo $RANDOM >{self.top()}/note; sync -f /shared")
        return self._operation(f"{SESSION}/snapshots", "{}", SESSION)

    def clone(self) -> float:
        name = f"clone-{next(self.numbers)}"
        self.alice.sh("sync -f /shared")
        took = self._operation(f"{SESSION}/clone", json.dumps({"name": name}), name)
        self.alice.ok("delete", name, "--purge", "--yes", *WAIT)
        return took

    def copy(self) -> float:
        """Copy the home's files with cp -a, to the same file system."""
        took = _seconds(self.alice.sh("sync -f /shared; " + CLOCK.format(f"cp -a {self.top()} {COPY}; sync -f {COPY}")))
        self.alice.sh(f"rm -rf {COPY}")
        return took

    def _operation(self, path: str, body: str, session: str) -> float:
        """Ask the API, and look ten times a second whether the operation is done."""
        look = f'{API}/{session} | grep -q \'"status":"done"\''
        return _seconds(
            self.alice.sh(CLOCK.format(f"{API}/{path} -d '{body}' >/dev/null; until {look}; do sleep 0.1; done"))
        )


def measure(alice: Person, runs: int) -> Iterator[Result]:
    alice.guest.sh("install -d -o alice $(findmnt -n -o SOURCE /shared | cut -d: -f2)/copies")
    alice.ok("start", SESSION, "--profile", "base", "--mem=600M", *WAIT)
    yield _untar(alice, runs)
    alice.inside(SESSION, FILL)
    alice.ok("stop", SESSION, *WAIT)
    volumes = Volumes(alice)
    yield _measured(SNAPSHOT, volumes.snapshot, volumes.copy, runs, Target(1.1))
    yield _measured(CLONE, volumes.clone, volumes.copy, runs, Target(1.1))


def _untar(alice: Person, runs: int) -> Result:
    alice.sh(MAKE_TAR + f"mkdir -p {BARE}")
    alice.inside(SESSION, MAKE_TAR)

    def ours() -> float:
        return _seconds(alice.inside(SESSION, UNTAR_SCRIPT))

    def peer() -> float:
        return _seconds(alice.sh(f"cd {BARE}; {UNTAR_SCRIPT}"))

    measured = _measured(UNTAR, ours, peer, runs, Target(1.8))
    alice.inside(SESSION, f"rm -rf small {TAR}")
    alice.sh(f"rm -rf {BARE} {TAR}")
    return measured


def _measured(name: str, ours: Callable[[], float], peer: Callable[[], float], runs: int, target: Target) -> Result:
    seconds = in_turns({"ours": ours, "peer": peer}, runs, name=name, unit="s")
    return result(name, seconds["ours"], seconds["peer"], "s", target)


def _seconds(printed: str) -> float:
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
    print(f"{site}, driver {driver}")
    print(table(results), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
