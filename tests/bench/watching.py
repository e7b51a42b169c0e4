"""Guests who watch: `watch-lag`, what they wait for what the owner sees, and `revoke`, how soon they are out."""

from __future__ import annotations

import contextlib
import json
import os
import select
import statistics
import sys
import time
from typing import TYPE_CHECKING

from tests.bench.ground import HERE, PROFILE, PYTHON, USER, Ground
from tests.bench.harness import in_turns, narrate
from tests.bench.report import FEWEST_RUNS, Result, Target, UnmeasurableError, result
from tests.lab_cluster import wait_for
from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LAG, REVOKE = "watch-lag", "revoke"
GUEST = "bob"
SESSION = "watched"
WORDS = 60
"""Words that the owner types for one median."""
GUESTS, AT_ONCE = 100, 20
"""Guests altogether, of which the last one out counts; and those whose access ends at once."""
LONGEST_S = 2.0
LIMIT_S = 120.0


@contextlib.contextmanager
def _shown(ground: Ground) -> Iterator[None]:
    """Run a session of the owner's during the block, with a terminal that is shown to the guest."""
    ground.sh(f"berth start {SESSION} --profile {PROFILE} --mem=1G", seconds=LIMIT_S)
    try:
        show = "tmux new-session -d -s main -x 80 -y 24 && tmux send-keys -t main berth-show Enter"
        ground.sh(f"berth ssh {SESSION} -- '{show}'", seconds=LIMIT_S)
        is_shown = f"berth ssh {SESSION} -- \"tmux display-message -p -t main '#{{pane_pipe}}'\""
        wait_for(lambda: ground.sh(is_shown).strip() == "1", what="the terminal to be shown")
        yield
    finally:
        ground.sh(f"berth stop {SESSION}; berth delete --yes {SESSION}", seconds=LIMIT_S)


def measure_lag(ground: Ground, runs: int) -> Result:
    """Measure from a typed word to the word on the watcher's screen, the median of WORDS in each run.

    The peer is a second client of the owner's tmux, which reads only. Both get each word at the same time.
    """
    ours: list[float] = []
    peer: list[float] = []
    with _shown(ground), contextlib.ExitStack() as terminals:
        ground.sh(f"berth share {SESSION} {GUEST} --role watch")
        owner, second, guest = (
            terminals.enter_context(_terminal(ground, user, command))
            for user, command in (
                (USER, ["berth", "ssh", SESSION, "-t", "tmux attach -t main"]),
                (USER, ["berth", "ssh", SESSION, "-t", "tmux attach -r -t main"]),
                (GUEST, ["berth", "ssh", f"{USER}.{SESSION}"]),
            )
        )
        guest.wait_for_text(f"{USER}.{SESSION}: terminal")
        for each in (owner, second):
            each.wait_for_text("[main]")
        for number in range(runs + 1):  # the first one warms up
            times = [_word_lag(owner, second, guest, f"w{number:02}x{word:02}y") for word in range(WORDS)]
            medians = [statistics.median(each) * 1000 for each in zip(*times, strict=True)]
            narrate(f"{LAG}: run {number} of {runs}: ours {medians[1]:.1f}   peer {medians[0]:.1f} ms")
            if number:
                peer.append(medians[0])
                ours.append(medians[1])
    return result(LAG, ours, peer, "ms", Target(2))


def _terminal(ground: Ground, user: str, command: Sequence[str]) -> PseudoTerminal:
    argv = [
        sys.executable,
        "-m",
        "slurm.lab",
        "exec",
        "--name",
        ground.lab.place.name,
        "--tty",
        "--user",
        user,
        "login",
    ]
    return PseudoTerminal([*argv, "--", *command], {**os.environ, "TERM": "xterm-256color"}, columns=80, lines=25)


def _word_lag(owner: PseudoTerminal, second: PseudoTerminal, guest: PseudoTerminal, word: str) -> tuple[float, float]:
    """Type a word on a cleared line; return the seconds until the second client and the guest have it."""
    owner.type("\x15")
    for each in (owner, second, guest):
        each.read(0.05)
    begins = {each: len(each.output) for each in (second, guest)}
    seen: dict[PseudoTerminal, float] = {}
    began = time.perf_counter()
    owner.type(word)
    while len(seen) < len(begins):
        ready = select.select([each.descriptor for each in begins], [], [], 5)[0]
        if not ready:
            raise UnmeasurableError(f"{LAG}: {word} does not arrive: {[each.text() for each in begins]}")
        for each, begin in begins.items():
            if each.descriptor in ready:
                each.read()
                if each not in seen and word.encode() in each.output[begin:]:
                    seen[each] = time.perf_counter() - began
    return seen[second], seen[guest]


def measure_revoke(ground: Ground, runs: int) -> Result:
    """Measure from the start of `berth unshare` to the end of the last guest's ssh.

    The result has the worst FEWEST_RUNS times.
    """
    del runs
    with _shown(ground):
        times = in_turns({"last": lambda: _revoke(ground)}, GUESTS // AT_ONCE, name=REVOKE, unit="s")["last"]
    return result(REVOKE, [max(times)] * FEWEST_RUNS, [LONGEST_S] * FEWEST_RUNS, "s", Target(1))


def _revoke(ground: Ground) -> float:
    ground.sh(f"berth share {SESSION} {GUEST} --role watch")
    command = [*PYTHON, f"{HERE}/watchers.py", f"{USER}.{SESSION}", str(AT_ONCE)]
    with ground.lab.popen(["timeout", str(LIMIT_S), *command], user=GUEST) as guests:
        assert guests.stdout is not None
        if guests.stdout.readline() != b"ready\n":
            raise UnmeasurableError(f"{REVOKE}: {guests.communicate()[1].decode(errors='replace')[-2000:]}")
        began = time.time()
        ground.sh(f"berth unshare {SESSION} {GUEST}")
        ends = json.loads(guests.communicate(timeout=LIMIT_S)[0])
    return float(max(ends)) - began
