"""Run every test, in lanes, and stop early if the first one fails. `make test` without ARGS is this program.

1. Unit tests and checks of the pages, in all cores, the shortest files first. If one fails, nothing else begins.
2. Component tests, while the labs come up and their profiles are built.
3. Tests on labs, on as many as there are until the end: first the files that are marked `waits`, which leave the
   processors to the component tests, then the others; the longest files of each kind first.

A lane that runs beside another writes to build/lanes/, and its output is printed when it ends. A few failed tests are
tried once more when no lane runs any longer (`second_try`). Standard library only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.errors import LabError
from slurm.lab.paths import cache_root
from slurm.lab.preflight import check_root
from slurm.lab.progress import ProgressLog
from slurm.lab.releases import TRIXIE
from slurm.lab.rootfs import node_root
from tests.site import deploy, second_try
from tests.site.run import NAME, OURS, PROFILES, alone, build_group, take_labs_down

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORT = "not soak and not vm"
"""The tests of `make test`."""
BUILD = deploy.CHECKOUT / "build"
UNSTABLE = BUILD / "unstable.txt"
CORES = os.cpu_count() or 1
LANE_LIMIT_S = 4500
"""A lane that takes longer hangs. pytest's faulthandler_timeout shows where."""
STOP_LIMIT_S = 60
ENDS_WHAT_HANGS = ("-o", "faulthandler_exit_on_timeout=true")
"""The worker of a test that hangs ends after pytest's faulthandler_timeout, and another one runs the rest.

The test has failed then. Tests of `make soak` may take longer.
"""


MEMORY, MEMORY_BYTES = Path("/dev/shm"), 8 * 2**30  # noqa: S108 - a folder of an unpredictable name is made in it
"""The directory of the tests' own files, and the bytes that it must have free.

With less, they are on the disk: the tests write hundreds of thousands of files.
"""


@dataclass(eq=False)
class Lane:
    """One run of pytest with workers of its own."""

    name: str
    folders: tuple[str, ...]
    marks: str = SHORT
    workers: int = CORES
    lab: str = ""
    spread: str = "loadfile"
    beside: bool = False
    """Whether it runs beside another lane, so that its output goes to a file."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _files: str = field(default="", init=False)
    """The folder for the tests' own files. pytest keeps those of three runs and removes older ones in Python, which
    fails on the deep trees of an interrupted run."""

    @property
    def log(self) -> Path:
        """Return the file for the output of a lane that runs beside others."""
        return BUILD / f"lanes/{self.name}.log"

    @property
    def failures(self) -> Path:
        """Return the file in which the ids of failed tests are."""
        return BUILD / f"failures/{self.name}.txt"

    def start(self, pytest: str) -> None:
        """Start pytest; return at once."""
        options = ["-m", self.marks, "-n", str(self.workers), "--dist", self.spread, *ENDS_WHAT_HANGS]
        options += ["--no-loadscope-reorder"] if self.spread == "loadfile" else []
        self._files = tempfile.mkdtemp(prefix="berth-", dir=_place_of_files())
        options += ["--basetemp", f"{self._files}/files", "-o", "tmp_path_retention_policy=failed"]
        environment = os.environ | {"TEST_DURATIONS": str(BUILD / f"durations/{self.name}.json")}
        environment |= {"LAB_NAME": self.lab} if self.lab else {}
        environment |= {"TEST_ORDER": "shortest"} if self.spread == "load" else {}  # each test goes to a free worker
        environment |= {"TEST_FAILURES": str(self.failures)}
        self.failures.parent.mkdir(parents=True, exist_ok=True)
        self.failures.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            output = log if self.beside else None
            self._process = subprocess.Popen([pytest, *options, *self.folders], env=environment, stdout=output)

    def finish(self) -> int:
        """Wait for the end, print the output if it went to a file, and return pytest's exit code."""
        if self._process is None:
            return 0
        try:
            code = self._process.wait(LANE_LIMIT_S)
        except subprocess.TimeoutExpired:
            print(f"tests: lane {self.name} did not end within {LANE_LIMIT_S} s", file=sys.stderr)
            self._process.send_signal(signal.SIGINT)
            code = self._wait_or_kill() or 1
        self._remove_files()
        if self.beside:
            sys.stdout.write(self.log.read_text(errors="replace"))
        print(f"lane {self.name}: exit code {code}", flush=True)
        return code

    def second_code(self, pytest: str, code: int) -> int:
        """Return the exit code after a second try of a few failed tests, on the first lab if the lane has labs."""
        environment = os.environ | ({"LAB_NAME": f"{self.lab}-gw0"} if self.lab else {})
        return second_try.second_code([pytest, *ENDS_WHAT_HANGS], code, self.failures, environment)

    def stop(self) -> None:
        """Send SIGINT if it still runs, and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # pytest takes down what its fixtures have started
            self._wait_or_kill()
            self._remove_files()

    def _wait_or_kill(self) -> int:
        assert self._process is not None
        try:
            return self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _remove_files(self) -> None:
        """Remove the tests' files, and before that the mounts that workers have left which ended in a test."""
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for left in reversed([each for each in mounts if each.startswith(f"{self._files}/")]):
            subprocess.run(["umount", "--lazy", left], check=False)
        subprocess.run(["rm", "-rf", self._files], check=False)


def _place_of_files() -> Path | None:
    """Return a folder in memory with enough room; None for that of the environment."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        return None
    return MEMORY


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests.site.lanes")
    parser.add_argument("--labs", type=int, default=5, help="labs that share the tests")
    parser.add_argument("pytest", help="the program")
    options = parser.parse_args(argv)
    began_at = time.monotonic()
    shutil.rmtree(BUILD / "durations", ignore_errors=True)
    UNSTABLE.unlink(missing_ok=True)
    unit = Lane("unit", ("tests/unit", "tests/docs"), spread="load")
    unit.start(options.pytest)
    try:
        if unit.second_code(options.pytest, unit.finish()) != 0:
            print("tests: a unit test failed, so no other lane was started", file=sys.stderr)
            return 1
        check_root()
        with alone():
            return _on_labs(options)
    except (LabError, deploy.SiteError) as error:
        print(f"tests: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        unit.stop()
        second_try.report_unstable(UNSTABLE)
        print(f"tests: {time.monotonic() - began_at:.0f} s in all", flush=True)


def _on_labs(options: argparse.Namespace) -> int:
    names = [f"{NAME}-gw{index}" for index in range(options.labs)]
    component = Lane("component", ("tests/component",), beside=True)
    lab = Lane("lab", ("tests/contract", "tests/lab", "tests/load"), SHORT, options.labs, NAME)
    try:
        if NAME == OURS:
            take_labs_down(names)
        component.start(options.pytest)
        _bring_up(names)
        lab.start(options.pytest)
        codes = {lane: lane.finish() for lane in (lab, component)}
        return max((lane.second_code(options.pytest, code) for lane, code in codes.items()), key=abs)
    finally:
        for lane in (component, lab):
            lane.stop()
        if not os.environ.get("KEEP_LAB"):
            take_labs_down(names)


def _bring_up(names: Sequence[str]) -> None:
    """Bring labs up, and meanwhile, on the first, build the profiles that tests start sessions from."""
    progress = ProgressLog()
    first = deploy.up(names[0], progress=progress)
    with ThreadPoolExecutor() as pool:
        older = pool.submit(node_root, cache_root(), progress, TRIXIE)
        builds = [pool.submit(build_group, first, group, progress) for group in PROFILES]
        for name in names[1:]:
            deploy.up(name, progress=progress)
        for each in builds:
            each.result()
        older.result()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    raise SystemExit(main(sys.argv[1:]))
