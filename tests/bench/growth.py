"""`growth-…`: how the controller's work grows with the number of sessions, as an exponent.

Each measurement is made with 100, 1,000 and 10,000 sessions in the registry, 10 % of them live, over a Slurm and a
launcher in memory: so it is the controller's own cost alone. The exponent is the slope of time over number in
logarithms: 1 is proportional, 0 does not depend on the number.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy

from broker.controller.reconcile.job_comment import JOB_PREFIX
from broker.controller.registry.models import JobRow, Session
from broker.schema.sessions import SessionState
from broker.ssh.keys import PublicKey
from tests.bench.harness import narrate
from tests.bench.report import Result, Target, result
from tests.fakes.core import Core, site_config
from tests.fakes.launcher import FakeLauncher
from tests.fakes.rows import HOST_KEY, make_session
from tests.fakes.scheduler import FakeScheduler

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.bench.ground import Ground

SIZES = (100, 1_000, 10_000)
LIVE_SHARE = 0.1
OWN = 20
"""Sessions of the user whose list, login and start are measured, at each size."""
USER = "alice"
REPEATS = 5
"""Measurements of one run, of which the fastest counts: other processes of the machine only add time."""
TARGET = Target(1.1)


class Crowd:
    """A controller with so many sessions."""

    def __init__(self, directory: Path, size: int) -> None:
        directory.mkdir()
        self.size = size
        self.scheduler = FakeScheduler()
        self.core = Core.make(site_config(directory), FakeLauncher(self.scheduler))
        self._names = itertools.count()
        rows, jobs = [], []
        for number in range(size):
            session = self._session(number)
            rows.append(session.model_dump())
            jobs.append(session.job.model_dump())
        with self.core.registry._engine.begin() as connection:
            connection.execute(sqlalchemy.insert(Session), rows)
            connection.execute(sqlalchemy.insert(JobRow), jobs)

    def _session(self, number: int) -> Session:
        """Make one session; every tenth has a job that runs."""
        owner = USER if number < OWN else f"u{number % 50}"
        is_live = number % round(1 / LIVE_SHARE) == 0
        state = SessionState.READY if is_live else SessionState.STOPPED
        session = make_session(owner, f"s{number}", state=state, asked_at=1.0, submitted_at=1.0)
        if is_live:
            fingerprint = PublicKey.parse(HOST_KEY).fingerprint
            comment = f"berth:{session.id}:1:0:c1:20001:{fingerprint}"
            job_id = self.scheduler.submit(JOB_PREFIX + session.id, user=owner, comment=comment)
            self.scheduler.start(job_id)
            session.job.job_id = job_id
        return session

    async def tick(self) -> None:
        await self.core.tick()

    async def list_sessions(self) -> None:
        await self.core.sessions.all(USER)

    async def resolve(self) -> None:
        await self.core.connect.connect(USER, "s0", waited=0)

    async def start(self) -> None:
        """Start a new session, until sbatch has answered."""
        await self.core.start(f"new{next(self._names)}", USER)


WORK: dict[str, Callable[[Crowd], Awaitable[None]]] = {
    "growth-tick": Crowd.tick,
    "growth-list": Crowd.list_sessions,
    "growth-resolve": Crowd.resolve,
    "growth-start": Crowd.start,
}


@contextlib.contextmanager
def crowds() -> Iterator[list[Crowd]]:
    """Open a controller of each size."""
    with tempfile.TemporaryDirectory() as directory:
        opened = [Crowd(Path(directory, str(size)), size) for size in SIZES]
        try:
            yield opened
        finally:
            for each in opened:
                each.core.registry.close()


def exponent(times: dict[int, float]) -> float:
    """Return the slope of the line through these points in logarithms, by least squares."""
    numbers, seconds = [math.log(size) for size in times], [math.log(each) for each in times.values()]
    return statistics.linear_regression(numbers, seconds).slope


def measure(name: str, ground: Ground, runs: int) -> Result:
    """Measure one kind of work, the sizes in turns."""
    del ground
    logging.getLogger("broker").setLevel(logging.WARNING)
    return asyncio.run(_measure(name, runs))


async def _measure(name: str, runs: int) -> Result:
    work = WORK[name]
    exponents = []
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    with crowds() as opened:
        for crowd in opened:
            await crowd.tick()  # the first one observes every job
            await work(crowd)
        for _ in range(runs):
            fastest = {}
            for crowd in opened:
                fastest[crowd.size] = min([await _time(work, crowd) for _ in range(REPEATS)])
                times[crowd.size].append(fastest[crowd.size])
            exponents.append(exponent(fastest))
    curve = ", ".join(f"{size:,}: {statistics.median(each) * 1000:.1f} ms" for size, each in times.items())
    narrate(f"{name}: {curve}; exponent {statistics.median(exponents):.2f}")
    return result(name, exponents, [1.0] * runs, "exponent", TARGET)


async def _time(work: Callable[[Crowd], Awaitable[None]], crowd: Crowd) -> float:
    began = time.perf_counter()
    await work(crowd)
    return time.perf_counter() - began


MEASUREMENTS: dict[str, Callable[[Ground, int], Result]] = {name: functools.partial(measure, name) for name in WORK}
