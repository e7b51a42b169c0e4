"""`snapshot-share`: a colleague's clone of a shared snapshot, against a copy by root."""

from __future__ import annotations

import itertools

from tests.bench.ground import USER, Ground
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result
from tests.bench.volumes import LAYERS, Kept, timed

NAME = "snapshot-share"
COLLEAGUE = "bob"
FILES, BYTES = 20_000, 542 * 2**20
COPY = f"/shared/home/{COLLEAGUE}/copy"
LIMIT_S = 120.0


def measure(ground: Ground, runs: int) -> Result:
    """Clone as the colleague; the peer is `cp -a` of the same files by root into the colleague's home."""
    kept, names = Kept.make(ground, FILES, BYTES), itertools.count()
    ground.sh(f"berth share {kept.name} {COLLEAGUE} --snapshot filled --yes", seconds=LIMIT_S)
    made: list[str] = []

    def ours() -> float:
        made.append(f"taken-{next(names)}")
        clone = f"berth clone {USER}.{kept.name} {made[-1]} --at 1"
        took = timed(ground, clone, user=COLLEAGUE, before="sync -f ~")
        ground.sh(f"berth delete --yes --purge {made[-1]}", seconds=LIMIT_S, user=COLLEAGUE)
        return took

    def peer() -> float:
        copy = f"cp -a {LAYERS}/{kept.content}/tree {COPY}"
        took = timed(ground, copy, user="root", before="sync -f ~")
        ground.sh(f"rm -rf {COPY}", seconds=LIMIT_S, user="root")
        return took

    try:
        seconds = in_turns({"ours": ours, "peer": peer}, runs, name=NAME, unit="s")
    finally:
        kept.remove()
    return result(NAME, seconds["ours"], seconds["peer"], "s", Target(1.5))
