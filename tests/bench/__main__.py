"""`make bench`: measure against bare Slurm and OpenSSH, on the lab that $LAB_NAME names.

    python -m tests.bench [NAME…] [--runs N] [--strict]

A target that is missed is shown as missed; only --strict makes it a failure. What cannot be measured is one always.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.bench import (
    batch,
    build_again,
    bulk,
    command_line,
    connect,
    container_image,
    continuation,
    echo,
    environments,
    growth,
    memory,
    push,
    queue_tick,
    reconcile,
    restart,
    sbom,
    sharing,
    space,
    start,
    tui,
    volumes,
    watching,
    web_chp,
    web_memory,
    web_recover,
    web_requests,
    web_revoke,
    web_start,
)
from tests.bench.ground import Ground
from tests.bench.harness import narrate
from tests.bench.report import FEWEST_RUNS, Result, UnmeasurableError, as_json, table
from tests.site.deploy import SiteError

BENCHMARKS = {
    start.NAME: start.measure,
    continuation.NAME: continuation.measure,
    restart.RESTART: restart.measure_restart,
    restart.SWITCH: restart.measure_switch,
    command_line.LIST: command_line.measure_list,
    command_line.HELP: command_line.measure_help,
    batch.NAME: batch.measure,
    environments.STOPPED: environments.measure_stopped,
    environments.RUNNING: environments.measure_running,
    connect.NAME: connect.measure,
    bulk.UP: bulk.measure_up,
    bulk.DOWN: bulk.measure_down,
    bulk.FOUR: bulk.measure_four,
    echo.P50: echo.measure_p50,
    echo.P99: echo.measure_p99,
    echo.STALL: echo.measure_stall,
    memory.NAME: memory.measure,
    web_requests.REQUESTS: web_requests.measure_requests,
    web_requests.FIRST_BYTE: web_requests.measure_first_byte,
    web_requests.MESSAGES: web_requests.measure_messages,
    web_chp.NAME: web_chp.measure,
    web_memory.NAME: web_memory.measure,
    web_start.NAME: web_start.measure,
    web_revoke.NAME: web_revoke.measure,
    web_recover.NAME: web_recover.measure,
    reconcile.NAME: reconcile.measure,
    queue_tick.NAME: queue_tick.measure,
    **growth.MEASUREMENTS,
    tui.PAINT: tui.measure_paint,
    tui.CHANGE: tui.measure_change,
    tui.MEMORY: tui.measure_memory,
    tui.START: tui.measure_start,
    volumes.SNAPSHOT: volumes.measure_snapshot,
    volumes.ROLLBACK: volumes.measure_rollback,
    volumes.CLONE: volumes.measure_clone,
    volumes.SCALING: volumes.measure_scaling,
    volumes.CLONE_START: volumes.measure_clone_start,
    volumes.UNTAR: volumes.measure_untar,
    volumes.LIVE: volumes.measure_live,
    container_image.NAME: container_image.measure,
    build_again.NAME: build_again.measure,
    sharing.NAME: sharing.measure,
    watching.LAG: watching.measure_lag,
    watching.REVOKE: watching.measure_revoke,
    space.FIRST: space.measure_first,
    space.AGAIN: space.measure_again,
    volumes.AGAIN: volumes.measure_again,
    sbom.NAME: sbom.measure,
    push.PUSH: push.measure,
}
OUTPUT = Path("build/bench.json")
RUNS = 7


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    names = [name for name in BENCHMARKS if not options.names or name in options.names]
    try:
        results = run(Ground.of(os.environ.get("LAB_NAME", "lab")), names, options.runs)
    except (UnmeasurableError, SiteError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(as_json(results))
    print(table(results), end="")
    narrate(f"written to {OUTPUT}")
    return 1 if options.strict and not all(each.met for each in results) else 0


def run(ground: Ground, names: list[str], runs: int) -> list[Result]:
    results = []
    for name in names:
        results.append(BENCHMARKS[name](ground, runs))
        each = results[-1]
        narrate(f"{name}: {each.ratio:.2f}, target {each.target}")
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument(
        "--runs", type=_runs, default=RUNS, help=f"of each side (default: {RUNS}, at least {FEWEST_RUNS})"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    return parser


def _runs(text: str) -> int:
    runs = int(text)
    if runs < FEWEST_RUNS:
        raise argparse.ArgumentTypeError(f"at least {FEWEST_RUNS}")
    return runs


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
