"""A tick of the reconcile loop and one squeue, in turns. Runs in the lab, as the service account.

    tick.py BACKEND RUNS SESSIONS

A registry in a temporary directory gets a session for every job that carries a session's name. Prints one JSON object
a line: how many queries Slurm counted for a tick, then the seconds of each pair of runs.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from broker.config.file import Mode
from broker.config.settings import SlurmSettings, StorageSettings
from broker.controller.cluster.answers import ClusterAnswers
from broker.controller.images import ImageFinder
from broker.controller.open_connections import OpenConnections
from broker.controller.reconcile.cancellation import JobCanceller
from broker.controller.reconcile.continuation import Continuation
from broker.controller.reconcile.deletion import DeletionRunner
from broker.controller.reconcile.end_notice import EndNoticeWriter
from broker.controller.reconcile.held_jobs import JobHolder
from broker.controller.reconcile.idle import IdlePolicy
from broker.controller.reconcile.job_comment import JOB_PREFIX
from broker.controller.reconcile.loop import Reconciler
from broker.controller.reconcile.maintenance import Maintenance
from broker.controller.reconcile.manifests import ManifestWriter
from broker.controller.reconcile.node_watch import NodeWatch
from broker.controller.reconcile.observed_slurm import ObservedSlurm
from broker.controller.reconcile.operation_runner import OperationRunner
from broker.controller.reconcile.own_changes import OwnChangesFinder
from broker.controller.reconcile.running_copies import RunningCopies
from broker.controller.reconcile.stop import ScheduledStopPolicy
from broker.controller.reconcile.upgrade_offers import UpgradeOffers
from broker.controller.registry.async_registry import AsyncRegistry
from broker.controller.registry.database import open_registry
from broker.controller.registry.models import JobRow, Session
from broker.controller.registry.registry import EventEntry
from broker.controller.wakeup import ChangeNotifier
from broker.schema.sessions import SessionState
from profiles.image.store import Stores
from profiles.signature.policy import SignaturePolicy
from slurm.backends import Backend, open_scheduler
from slurm.run import run_command

if TYPE_CHECKING:
    from broker.controller.launcher_client.client import LauncherClient
    from broker.controller.reconcile.session_files import FileRewriter
    from broker.controller.reconcile.submission import Submitter
    from broker.controller.registry.registry import Registry
    from slurm.scheduler import Scheduler

SQUEUE = ("squeue", "-h", "-o", "%i|%j|%u|%T|%r|%k|%N")
TIMEOUT = 60.0
"""Seconds for one query."""


class Idle:
    """Stands where the launcher is: a tick that finds everything in order does not need it."""


class NoSubmitter:
    """Stands where the submitter is, and is not needed either."""

    def under_way(self, session_id: str) -> bool:
        raise AssertionError(f"session {session_id} was not matched with its job")


@dataclass(frozen=True, slots=True)
class Loop:
    """The reconcile loop over a registry that says what Slurm says."""

    reconciler: Reconciler
    registry: Registry

    @classmethod
    async def over(cls, scheduler: Scheduler, registry: Registry, sessions: int) -> Loop:
        """Make a session for every job, and tick until nothing changes any more."""
        jobs = [job for job in await scheduler.jobs(JOB_PREFIX) if not job.state.ended]
        if len(jobs) != sessions:
            raise SystemExit(f"{len(jobs)} jobs carry a session's name, not {sessions}")
        now = time.time()
        for job in jobs:
            session_id = job.name.removeprefix(JOB_PREFIX)
            session = Session(
                id=session_id,
                name=f"s{job.id}",
                owner=job.user,
                state=SessionState.QUEUED,
                profile="base",
                version="1",
                digest="sha256:0",
                image_path="/profiles/base/1/image.sif",
                image_size=1,
                created_at=now,
                submission=1,
                submissions=1,
            )
            session.job_row = JobRow(session_id=session_id, submission=1, asked_at=now, job_id=job.id)
            registry.create(session, EventEntry("bench", "made"))
        rows = AsyncRegistry(registry)
        launcher, changes = cast("LauncherClient", Idle()), ChangeNotifier()
        submitter = cast("Submitter", NoSubmitter())
        images = ImageFinder(Stores([]), launcher, Mode.SITE, SignaturePolicy())
        maintenance = Maintenance(settings=StorageSettings(), registry=rows, images=images, launcher=launcher)
        node_watch = NodeWatch(rows, ClusterAnswers(scheduler), launcher)
        continuation = Continuation(settings=SlurmSettings(), registry=rows, submitter=submitter)
        operations = OperationRunner(
            registry=rows,
            launcher=launcher,
            manifests=ManifestWriter(rows, launcher),
            submitter=submitter,
            maintenance=maintenance,
            own_changes=OwnChangesFinder(launcher, images),
            changes=changes,
        )
        end_notices, copies = EndNoticeWriter(launcher), RunningCopies()
        reconciler = Reconciler(
            settings=SlurmSettings(),
            registry=rows,
            scheduler=scheduler,
            submitter=submitter,
            canceller=JobCanceller(registry=rows, scheduler=scheduler, submitter=submitter, copies=copies),
            operations=operations,
            deletion=DeletionRunner(registry=rows, launcher=launcher, changes=changes),
            maintenance=maintenance,
            continuation=continuation,
            scheduled_stop=ScheduledStopPolicy(rows),
            idle_policy=IdlePolicy(rows, launcher),
            end_notices=end_notices,
            copies=copies,
            node_watch=node_watch,
            offers=UpgradeOffers(registry=rows, images=images, submitter=submitter, node_watch=node_watch),
            holder=JobHolder(
                registry=rows, launcher=launcher, end_notices=end_notices, operations=operations, changes=changes
            ),
            rewriter=cast("FileRewriter", None),  # no successor ends
            observed=ObservedSlurm(changes, OpenConnections(changes)),
        )
        loop = cls(reconciler, registry)
        while await reconciler.tick():
            pass
        return loop

    async def tick(self) -> float:
        """The seconds of one tick that finds everything as it was."""
        began = time.perf_counter()
        changed = await self.reconciler.tick()
        took = time.perf_counter() - began
        if changed or self.reconciler.observed.stale_since is not None:
            raise SystemExit("Slurm did not answer, or its jobs changed in the middle of the measurement")
        return took


async def squeue() -> float:
    """The seconds of the query by hand, run by the runner that every command of ours is run by."""
    began = time.perf_counter()
    await run_command(SQUEUE, timeout=TIMEOUT)
    return time.perf_counter() - began


def queries_so_far() -> int:
    """Return the number of slurmctld's answers to questions about jobs, by its own count."""
    said = subprocess.run(["sdiag"], capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
    return sum(
        int(count) for count in re.findall(r"^\s+REQUEST_JOB_\w*INFO\w*\s+\(\s*\d+\) count:(\d+)", said, re.MULTILINE)
    )


async def queries_of_a_tick(loop: Loop) -> int:
    before = queries_so_far()
    await loop.tick()
    return queries_so_far() - before


async def main(backend: Backend, runs: int, sessions: int) -> None:
    scheduler = await open_scheduler(backend, timeout=TIMEOUT)
    with tempfile.TemporaryDirectory() as directory:
        registry = open_registry(f"sqlite:///{directory}/registry.db")
        try:
            loop = await Loop.over(scheduler, registry, sessions)
            _tell(backend=scheduler.name, queries=await queries_of_a_tick(loop))
            await squeue()
            for _ in range(runs):
                _tell(ours=await loop.tick(), peer=await squeue())
        finally:
            await scheduler.close()
            registry.close()


def _tell(**what: object) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    asyncio.run(main(cast("Backend", sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
