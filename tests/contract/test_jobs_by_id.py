"""The promises of every Scheduler about a query for jobs by their ids: it shows what the query for all jobs shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slurm.state import JobState
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.contract.cluster import Asker

pytestmark = pytest.mark.usefixtures("tidy")
UNKNOWN_ID = 60_000_000
"""Far from any job, and below Slurm's MaxJobId."""


def by_id(asker: Asker, *job_ids: int) -> list[object]:
    return list(asker.ask(asker.cluster.scheduler.jobs_by_id(job_ids)))


def test_jobs_are_those_of_the_query_for_all(asker: Asker, name: str) -> None:
    running = asker.started(name, comment="berth:abc:1")
    wait_for(lambda: asker.jobs(name)[running].reason != "Prolog", what="the end of Slurm's own preparations")
    held = asker.cluster.submit(f"{name}.more", held=True, user="bob")
    jobs = asker.jobs(name)
    assert by_id(asker, held, running, held) == [replace(jobs[job_id], ahead=None) for job_id in (running, held)]
    assert by_id(asker, running) == [jobs[running]]


def test_ended_job_is_shown_as_long_as_slurm_knows_it(asker: Asker, name: str) -> None:
    job_id = asker.cluster.submit(name, held=True)
    asker.ask(asker.cluster.scheduler.cancel(job_id))
    asker.wait_until(name, job_id, lambda state: state.ended)
    assert by_id(asker, job_id) == [asker.jobs(name)[job_id]]
    assert asker.jobs(name)[job_id].state is JobState.CANCELLED


def test_requeued_job_has_its_restart(asker: Asker, name: str) -> None:
    job_id = asker.started(name)
    asker.cluster.requeue(job_id)
    asker.wait_until(name, job_id, lambda state: state.waits)
    wait_for(lambda: asker.jobs(name)[job_id].reason == "BeginTime", what="the reason BeginTime")
    assert by_id(asker, job_id) == [replace(asker.jobs(name)[job_id], ahead=None)]


def test_unknown_jobs_are_left_out(asker: Asker, name: str) -> None:
    job_id = asker.cluster.submit(name, held=True)
    assert by_id(asker, UNKNOWN_ID, job_id, UNKNOWN_ID + 1) == [asker.jobs(name)[job_id]]
    assert by_id(asker, UNKNOWN_ID) == by_id(asker) == []
