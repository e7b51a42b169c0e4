"""Disk space of sessions: `berth size`, the first time and later, against du(1).

Calls go to the API, as in `volumes`: registry, launcher and its child are in them, the command line's start is not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.ground import PROFILE, Ground
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.bench.volumes import LAYERS, SOCKET, timed, top_of

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST, AGAIN = "size-first", "size"
LAYERS_MADE, FILES = 10, 100_000
FILL = "mkdir -p {0}; cd {0}; for d in $(seq {1}); do mkdir d$d; seq 100 | split -l 1 -d -a 2 - d$d/f; done"
"""A script that makes folders of 100 small files each."""
_names = itertools.count()


@dataclass(frozen=True, slots=True)
class Counted:
    """A stopped session of alice's with FILES files in LAYERS_MADE layers of its home."""

    ground: Ground
    name: str
    layers: tuple[str, ...]
    """Their directories."""

    @classmethod
    def make(cls, ground: Ground) -> Counted:
        name = f"counted-{next(_names)}"
        ground.sh(f"berth start {name} --profile {PROFILE} --mem=1G >/dev/null && berth stop {name}")
        layers = []
        for number in range(LAYERS_MADE):
            layers.append(f"{LAYERS}/{top_of(ground, name)}")
            script = FILL.format(f"{layers[-1]}/tree/content{number}", FILES // LAYERS_MADE // 100)
            ground.sh(f"{script}; berth snapshot {name} filled-{number}", seconds=300)
        ground.sh(f"sync -f {LAYERS}")
        counted = ground.berth(f"size {name}")["lines"][0]["files"]
        if counted < FILES:
            raise UnmeasurableError(f"{AGAIN}: of {FILES} files {counted} are counted")
        return cls(ground, name, tuple(layers))

    def ours(self) -> float:
        """Seconds of a call of the API."""
        curl = f"curl -sf --unix-socket {SOCKET} http://localhost/v1/sessions/{self.name}/size"
        return timed(self.ground, f"{curl} | grep -q '\"lines\"'")

    def first(self) -> float:
        """The same without what earlier calls have kept."""
        self.ground.sh(" ".join(["rm -f", *(f"{layer}/inodes" for layer in self.layers)]))
        return self.ours()

    def peer(self) -> float:
        return timed(self.ground, " ".join(["du -s", *(f"{layer}/tree" for layer in self.layers)]))

    def remove(self) -> None:
        self.ground.sh(f"berth delete --yes --purge {self.name}", seconds=600)


def _measure(name: str, target: Target, ours: Callable[[Counted], float], ground: Ground, runs: int) -> Result:
    counted = Counted.make(ground)
    try:
        sides: dict[str, Callable[[], float]] = {"ours": lambda: ours(counted), "peer": counted.peer}
        seconds = in_turns(sides, runs, name=name, unit="s")
    finally:
        counted.remove()
    return result(name, seconds["ours"], seconds["peer"], "s", target)


def measure_first(ground: Ground, runs: int) -> Result:
    return _measure(FIRST, Target(6), Counted.first, ground, runs)


def measure_again(ground: Ground, runs: int) -> Result:
    return _measure(AGAIN, Target(1), Counted.ours, ground, runs)
