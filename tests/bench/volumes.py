"""Snapshots, rollbacks and clones against copying, and a home against a bare directory.

Calls go to the API, as `curl` makes them, and are timed in the shell that makes them: the start of the command line is
measured in `start`. The files that a run leaves are removed outside the measured time.
"""

from __future__ import annotations

import functools
import itertools
import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.bench.ground import PROFILE, ROOM, SSH_CONFIG, USER, Ground
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.bench.start import SHELL
from tests.bench.waiting import wait_of
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SNAPSHOT, ROLLBACK, CLONE = "snapshot", "rollback", "clone"
SCALING, CLONE_START, UNTAR, LIVE = "clone-scaling", "clone-start", "home-untar", "live-snapshot"
AGAIN = "snapshot-again"
CONSTANT = Target(0.02)
SOCKET = "/run/berth/api.sock"
LAYERS = "/shared/berth/alice/layers"
FILES, BYTES = 10_000, 2**30
FEW = 100
UNCHANGED, FEWER_UNCHANGED = 100_000, 1_000
COPY = f"{ROOM}/copy"
_names = itertools.count()


def fill_script(folder: str, files: int, size: int) -> str:
    """A script that makes `files` files of together `size` bytes, 100 in a folder; no two files alike."""
    return (
        f"mkdir -p {folder}; cd {folder}; head -c {size // files} /dev/urandom >seed;"
        f"for d in $(seq {max(files // 100, 1)}); do mkdir d$d; for f in $(seq {min(files, 100)}); do "
        "{ echo $d $f; cat seed; } >d$d/f$f; done; done; rm seed"
    )


@dataclass(frozen=True, slots=True)
class Kept:
    """A stopped session of alice's whose home has so many files."""

    ground: Ground
    name: str
    content: str
    """The immutable layer that holds them."""

    @classmethod
    def make(cls, ground: Ground, files: int, size: int) -> Kept:
        name = f"kept-{next(_names)}"
        ground.sh(f"berth start {name} --profile {PROFILE} --mem=1G >/dev/null && berth stop {name}")
        top = top_of(ground, name)
        ground.sh(fill_script(f"{LAYERS}/{top}/tree/content", files, size), seconds=300)
        ground.sh(f"berth snapshot {name} filled && sync -f {LAYERS}")
        return cls(ground, name, top)

    def dirty(self) -> None:
        """Something to freeze."""
        self.ground.sh(f"echo $RANDOM >{LAYERS}/{top_of(self.ground, self.name)}/tree/note")

    def remove(self, name: str = "") -> None:
        self.ground.sh(f"berth stop {name or self.name}; berth delete --yes --purge {name or self.name}", seconds=120)


def top_of(ground: Ground, name: str) -> str:
    session = ground.berth(f"show {name}")["id"]
    record = json.loads(ground.sh(f"cat /shared/berth/alice/sessions/{session}/volumes.json"))
    return str(record["home"]["top"])


def timed(ground: Ground, command: str, *, before: str = ":", user: str = USER) -> float:
    """Seconds that a user's command takes, by the clock of the shell that runs it."""
    script = f"{before}; s=$EPOCHREALTIME; {command} >/dev/null; e=$EPOCHREALTIME; echo $((${{e/./}} - ${{s/./}}))"
    return _told(ground, script, user)


def operation_call(path: str, body: dict[str, Any]) -> str:
    """The command that asks the API, and fails unless the operation is done when it answers."""
    curl = (
        f"curl -sf -X POST --unix-socket {SOCKET} -H content-type:application/json -d {shlex.quote(json.dumps(body))}"
    )
    return f'{curl} http://localhost/v1/sessions/{path} | grep -q \'"status":"done"\''


def _against_copy(
    name: str, ground: Ground, runs: int, ours: Callable[[Kept], float], target: Target = CONSTANT
) -> Result:
    kept = Kept.make(ground, FILES, BYTES)
    source = f"{LAYERS}/{kept.content}/tree"

    def copy() -> float:
        took = timed(ground, f"cp -a {source} {COPY}", before="sync -f ~")
        ground.sh(f"rm -rf {COPY}", seconds=120)
        return took

    try:
        seconds = in_turns({"ours": lambda: ours(kept), "peer": copy}, runs, name=name, unit="s")
    finally:
        kept.remove()
    return result(name, seconds["ours"], seconds["peer"], "s", target)


def measure_snapshot(ground: Ground, runs: int) -> Result:
    def ours(kept: Kept) -> float:
        kept.dirty()
        return timed(ground, operation_call(f"{kept.name}/snapshots", {}))

    return _against_copy(SNAPSHOT, ground, runs, ours)


def measure_rollback(ground: Ground, runs: int) -> Result:
    def ours(kept: Kept) -> float:
        kept.dirty()
        return timed(ground, operation_call(f"{kept.name}/rollback", {"snapshot": "filled"}))

    return _against_copy(ROLLBACK, ground, runs, ours)


def _clone(ground: Ground, kept: Kept) -> float:
    new = f"clone-{next(_names)}"
    kept.dirty()
    took = timed(ground, operation_call(f"{kept.name}/clone", {"name": new}))
    kept.remove(new)
    return took


def measure_clone(ground: Ground, runs: int) -> Result:
    return _against_copy(CLONE, ground, runs, lambda kept: _clone(ground, kept))


def measure_scaling(ground: Ground, runs: int) -> Result:
    """A clone of 10,000 files against one of 100."""
    many, few = Kept.make(ground, FILES, BYTES), Kept.make(ground, FEW, BYTES // 100)
    try:
        sides = {"ours": lambda: _clone(ground, many), "peer": lambda: _clone(ground, few)}
        seconds = in_turns(sides, runs, name=SCALING, unit="s")
    finally:
        many.remove()
        few.remove()
    return result(SCALING, seconds["ours"], seconds["peer"], "s", Target(1.5))


@dataclass(frozen=True, slots=True)
class CloneStart:
    """From the command to the first byte of a shell, without the wait in the queue: a clone, and a new session."""

    ground: Ground
    kept: Kept
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def ours(self) -> float:
        name = f"cloned-{next(self.numbers)}"
        return self._shell(name, f"berth clone {self.kept.name} {name} --start")

    def plain(self) -> float:
        name = f"plain-{next(self.numbers)}"
        return self._shell(name, f"berth start {name} --profile {PROFILE} --mem=1G")

    def _shell(self, name: str, command: str) -> float:
        ssh = f"exec ssh -F {SSH_CONFIG} {name}.berth {shlex.quote(SHELL)}"
        took = self.ground.seconds_to_first_byte(["bash", "-c", f"{command} >/dev/null 2>&1 && {ssh}"])
        job_id = int(self.ground.berth(f"show {name}")["job_id"])
        self.kept.remove(name)
        gone = f"squeue -h -j {job_id} -o %T | grep -q ."
        wait_for(lambda: self.ground.lab.run(["sh", "-c", gone]).returncode != 0, what=f"the end of job {job_id}")
        return took - wait_of(self.ground.lab, job_id)


def measure_clone_start(ground: Ground, runs: int) -> Result:
    kept = Kept.make(ground, FILES, BYTES)
    try:
        clone = CloneStart(ground, kept)
        seconds = in_turns({"ours": clone.ours, "peer": clone.plain}, runs, name=CLONE_START, unit="s")
    finally:
        kept.remove()
    return result(CLONE_START, seconds["ours"], seconds["peer"], "s", Target(1.1))


TAR = "/dev/shm/many.tar"  # noqa: S108 - in memory, on machines of the lab's own
UNTAR_SCRIPT = (
    f"rm -rf many; sync -f .; s=$EPOCHREALTIME; tar -xf {TAR}; e=$EPOCHREALTIME; echo $((${{e/./}} - ${{s/./}}))"
)


def measure_untar(ground: Ground, runs: int) -> Result:
    """10,000 small files from memory into a session's home, and into a bare directory of the same file system."""
    name, bare = f"untar-{next(_names)}", f"{ROOM}/bare"
    ground.sh(f"{fill_script(f'{bare}/many', FILES, FILES * 2000)}; tar -cf {TAR} -C {bare} many; rm -rf {bare}/many")
    ground.sh(f"berth start {name} --profile {PROFILE} --mem=1G >/dev/null")
    inside = f"ssh -F {SSH_CONFIG} {name}.berth"
    ground.sh(f"{inside} 'cat >{TAR}' <{TAR}")
    commands = {"ours": f"{inside} {shlex.quote('bash -euc ' + shlex.quote(UNTAR_SCRIPT))}"}
    commands["peer"] = f"cd {bare}; {UNTAR_SCRIPT}"
    sides = {side: functools.partial(_told, ground, command) for side, command in commands.items()}
    try:
        seconds = in_turns(sides, runs, name=UNTAR, unit="s")
    finally:
        ground.sh(f"berth stop {name}; berth delete --yes --purge {name}; rm -rf {TAR} {bare}")
    return result(UNTAR, seconds["ours"], seconds["peer"], "s", Target(1.8))


def _told(ground: Ground, command: str, user: str = USER) -> float:
    """Seconds, from the microseconds that a command prints last."""
    return int(ground.sh(command, seconds=300, user=user).strip().splitlines()[-1]) / 1e6


def measure_live(ground: Ground, runs: int) -> Result:
    """A snapshot of a running session in whose home everything has changed, on disk when it is acknowledged."""
    name = f"live-{next(_names)}"
    ground.sh(f"berth start {name} --profile {PROFILE} --mem=1G >/dev/null")
    top = f"{LAYERS}/{top_of(ground, name)}/tree"
    inside = f"ssh -F {SSH_CONFIG} {name}.berth"
    ground.sh(f"{inside} {shlex.quote('bash -c ' + shlex.quote(fill_script('content', FILES, BYTES)))}", seconds=300)

    def ours() -> float:
        ground.sh(f"{inside} 'find content -exec touch -c {{}} +; sync -f .'", seconds=120)
        wait_for(lambda: is_settled(ground, top), what="the last change to be of the past")
        took = timed(ground, f"berth snapshot {name} taken")
        pause = ground.berth(f"snapshots {name}")["snapshots"][-1]["pause"]
        if pause > took / 2:
            raise UnmeasurableError(f"{LIVE}: the session stood still for {pause:.2f} of {took:.2f} s")
        ground.sh(f"berth snapshots {name} --delete taken --yes; berth gc", seconds=120)
        return took

    def copy() -> float:
        took = timed(ground, f"cp -a {top} {COPY}; sync -f {COPY}", before="sync -f ~")
        ground.sh(f"rm -rf {COPY}", seconds=120)
        return took

    try:
        seconds = in_turns({"ours": ours, "peer": copy}, runs, name=LIVE, unit="s")
    finally:
        ground.sh(f"berth stop {name}; berth delete --yes --purge {name}", seconds=120)
    return result(LIVE, seconds["ours"], seconds["peer"], "s", Target(1.1))


def measure_again(ground: Ground, runs: int) -> Result:
    """Seconds for which a running session is frozen for a snapshot, with 100,000 unchanged files and with 1,000."""
    names = {"ours": f"many-{next(_names)}", "peer": f"few-{next(_names)}"}
    try:
        for side, files in (("ours", UNCHANGED), ("peer", FEWER_UNCHANGED)):
            ground.sh(f"berth start {names[side]} --profile {PROFILE} --mem=1G >/dev/null")
            fill = (
                f"mkdir content; cd content; for d in $(seq {files // 100}); do mkdir d$d;"
                " for f in $(seq 100); do echo $d $f >d$d/f$f; done; done; sync -f ."
            )
            inside = f"ssh -F {SSH_CONFIG} {names[side]}.berth"
            ground.sh(f"{inside} {shlex.quote('bash -c ' + shlex.quote(fill))}", seconds=300)
            top = f"{LAYERS}/{top_of(ground, names[side])}/tree"
            wait_for(functools.partial(is_settled, ground, top), what="the last change to be of the past")
            _pause(ground, names[side])  # copies everything, off the clock
        sides = {side: functools.partial(_pause, ground, name) for side, name in names.items()}
        seconds = in_turns(sides, runs, name=AGAIN, unit="s")
    finally:
        for name in names.values():
            ground.sh(f"berth stop {name}; berth delete --yes --purge {name}", seconds=120)
    return result(AGAIN, seconds["ours"], seconds["peer"], "s", Target(3))


def _pause(ground: Ground, name: str) -> float:
    """Take a snapshot of a running session: the seconds for which its processes were frozen, both times together."""
    ground.sh(f"berth snapshot {name}", seconds=300)
    return float(ground.berth(f"snapshots {name}")["snapshots"][-1]["pause"])


def is_settled(ground: Ground, top: str) -> bool:
    """Whether no file has changed within the last two seconds: what has is copied twice."""
    return not ground.sh(f"find {top} -newerct '2 seconds ago' -print -quit")
