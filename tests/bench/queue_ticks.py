"""Ticks of two controllers, with many queued sessions and with none, in turns. Runs in the lab, as the service account.

    queue_ticks.py RUNS SESSIONS

Before each run the first job of the queue is cancelled, which is no session's, so that every session has another place.
Prints the seconds of the ticks of each run as one JSON object a line: `ours` with the sessions, `peer` without sessions
and with the same query, `bare` with a query that finds no job.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from typing import TYPE_CHECKING, cast

from broker.controller.reconcile.job_comment import JOB_PREFIX
from broker.controller.registry.database import open_registry
from slurm.backends import open_scheduler
from slurm.run import run_command
from tests.bench.tick import TIMEOUT, Loop

if TYPE_CHECKING:
    from slurm.scheduler import Job, Scheduler


class NoSessions:
    """The scheduler of a controller without sessions: it asks the same question, and none of the jobs is a session's.

    With `prefix` it asks for jobs whose names begin so, of which there are none.
    """

    def __init__(self, scheduler: Scheduler, prefix: str = "") -> None:
        self._scheduler = scheduler
        self._prefix = prefix

    async def jobs(self, name_prefix: str) -> list[Job]:
        await self._scheduler.jobs(self._prefix or name_prefix)
        return []

    def __getattr__(self, name: str) -> object:
        """Return the method of the real scheduler, for every other question."""
        return getattr(self._scheduler, name)


async def main(runs: int, sessions: int) -> None:
    scheduler = await open_scheduler("auto", timeout=TIMEOUT)
    with tempfile.TemporaryDirectory() as directory:
        registries = [open_registry(f"sqlite:///{directory}/{name}.db") for name in ("full", "empty", "bare")]
        try:
            full = await Loop.over(scheduler, registries[0], sessions)
            empty = await Loop.over(cast("Scheduler", NoSessions(scheduler)), registries[1], 0)
            bare = await Loop.over(cast("Scheduler", NoSessions(scheduler, "none-")), registries[2], 0)
            leaders = await _leaders()
            for number in range(runs + 1):
                before = await _places(full)
                await run_command(("scancel", leaders[number]), timeout=TIMEOUT)
                sides = {"ours": full, "peer": empty, "bare": bare}
                order = list(sides)[:: 1 if number % 2 else -1]
                took = {name: await sides[name].tick() for name in order}
                if [place - 1 for place in before] != await _places(full):
                    raise SystemExit("the places in the queue have not moved by one")
                if number:  # the first run warms up
                    print(json.dumps(took), flush=True)
        finally:
            await scheduler.close()
            for registry in registries:
                registry.close()


async def _leaders() -> list[str]:
    """Return the ids of the jobs that are no session's, the first one first."""
    answer = await run_command(("squeue", "-h", "-t", "PENDING", "-o", "%i %j"), timeout=TIMEOUT)
    jobs = [line.split() for line in answer.stdout.splitlines()]
    return sorted((job_id for job_id, name in jobs if not name.startswith(JOB_PREFIX)), key=int)


async def _places(loop: Loop) -> list[int]:
    views = [loop.reconciler.observed.view(row) for row in loop.registry.sessions_of("alice")]
    return [-1 if view.ahead is None else view.ahead for view in views]


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
