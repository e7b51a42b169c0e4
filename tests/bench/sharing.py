"""`snapshot-share`: a colleague's clone of a shared snapshot, against a copy by root; `revoke`: the end of guests."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING

from tests.bench.ground import HERE, PROFILE, PYTHON, USER, Ground
from tests.bench.harness import in_turns
from tests.bench.report import FEWEST_RUNS, Result, Target, UnmeasurableError, result
from tests.bench.volumes import LAYERS, Kept, operation_call, timed
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

SHARE, REVOKE = "snapshot-share", "revoke"
COLLEAGUE = "bob"
FILES, BYTES = 20_000, 542 * 2**20
COPY = f"/shared/home/{COLLEAGUE}/copy"
WATCHED = "watched"
GUESTS, AT_ONCE = 100, 20
"""Guests altogether, of which the last one out counts; and those whose access ends at once."""
LONGEST_S = 2.0
LIMIT_S = 120.0


def measure_share(ground: Ground, runs: int) -> Result:
    """Clone as the colleague; the peer is `cp -a` of the same files by root into the colleague's home."""
    kept, names = Kept.make(ground, FILES, BYTES), itertools.count()
    ground.sh(f"berth share {kept.name} {COLLEAGUE} --snapshot filled --yes", seconds=LIMIT_S)
    made: list[str] = []

    def ours() -> float:
        made.append(f"taken-{next(names)}")
        call = operation_call(f"{USER}.{kept.name}/clone", {"name": made[-1], "at": "1"})
        took = timed(ground, call, user=COLLEAGUE, before=f"sync -f {LAYERS}")
        ground.sh(f"berth delete --yes --purge {made[-1]}", seconds=LIMIT_S, user=COLLEAGUE)
        return took

    def peer() -> float:
        copy = f"cp -a {LAYERS}/{kept.content}/tree {COPY}"
        took = timed(ground, copy, user="root", before=f"sync -f {LAYERS}")
        ground.sh(f"rm -rf {COPY}", seconds=LIMIT_S, user="root")
        return took

    try:
        seconds = in_turns({"ours": ours, "peer": peer}, runs, name=SHARE, unit="s")
    finally:
        kept.remove()
    return result(SHARE, seconds["ours"], seconds["peer"], "s", Target(1.5))


def measure_revoke(ground: Ground, runs: int) -> Result:
    """Measure from the start of `berth unshare` to the end of the last guest's ssh.

    The result has the worst FEWEST_RUNS times.
    """
    del runs
    ground.sh(f"berth start {WATCHED} --profile {PROFILE} --mem=1G", seconds=LIMIT_S)
    try:
        show = "tmux new-session -d -s main -x 80 -y 24 && tmux send-keys -t main berth-show Enter"
        ground.sh(f"berth ssh {WATCHED} -- '{show}'", seconds=LIMIT_S)
        is_shown = f"berth ssh {WATCHED} -- \"tmux display-message -p -t main '#{{pane_pipe}}'\""
        wait_for(lambda: ground.sh(is_shown).strip() == "1", what="the terminal to be shown")
        times = in_turns({"last": lambda: _revoke(ground)}, GUESTS // AT_ONCE, name=REVOKE, unit="s")["last"]
    finally:
        ground.sh(f"berth stop {WATCHED}; berth delete --yes {WATCHED}", seconds=LIMIT_S)
    return result(REVOKE, [max(times)] * FEWEST_RUNS, [LONGEST_S] * FEWEST_RUNS, "s", Target(1))


def _revoke(ground: Ground) -> float:
    ground.sh(f"berth share {WATCHED} {COLLEAGUE} --role watch")
    command: Sequence[str] = [*PYTHON, f"{HERE}/watchers.py", f"{USER}.{WATCHED}", str(AT_ONCE)]
    with ground.lab.popen(["timeout", str(LIMIT_S), *command], user=COLLEAGUE) as guests:
        assert guests.stdout is not None
        if guests.stdout.readline() != b"ready\n":
            raise UnmeasurableError(f"{REVOKE}: {guests.communicate()[1].decode(errors='replace')[-2000:]}")
        began = time.time()
        ground.sh(f"berth unshare {WATCHED} {COLLEAGUE}")
        ends = json.loads(guests.communicate(timeout=LIMIT_S)[0])
    return float(max(ends)) - began
