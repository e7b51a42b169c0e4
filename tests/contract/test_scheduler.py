"""The promises of every Scheduler: one suite over the fake, and over pyslurm and Slurm's commands on a real cluster."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from slurm.lab.releases import RELEASES, SID, TRIXIE
from slurm.queue_position import startable_jobs
from slurm.scheduler import NoAnswer, Refused
from slurm.state import JobState
from tests.contract.cluster import DEADLINE, MINUTES, OLDER, REAL, Asker, Work
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Coroutine

pytestmark = pytest.mark.usefixtures("tidy")
UNKNOWN_ID = 60_000_000
"""Far from any job, and below Slurm's MaxJobId."""


def test_every_field_of_a_running_job(asker: Asker, name: str) -> None:
    before = time.time()
    job_id = asker.started(name, comment="berth:abc:1")
    wait_for(lambda: asker.jobs(name)[job_id].reason != "Prolog", what="the end of Slurm's own preparations")
    job = asker.jobs(name)[job_id]
    assert (job.id, job.name, job.user, job.state) == (job_id, name, "alice", JobState.RUNNING)
    assert (job.reason, job.comment, job.restarts) == ("", "berth:abc:1", 0)
    assert job.node in {"c1", "c2", "c3"}
    assert job.submitted_at is not None
    assert job.started_at is not None
    assert job.ends_at is not None
    assert before - 2 <= job.submitted_at <= job.started_at <= time.time() + 1
    assert job.ends_at == job.started_at + MINUTES * 60


def test_every_field_of_a_held_job(asker: Asker, name: str) -> None:
    job_id = asker.cluster.submit(name, held=True)
    job = asker.jobs(name)[job_id]
    assert job.state is JobState.PENDING
    assert (job.reason, job.comment, job.node, job.restarts) == ("JobHeldUser", "", "", 0)
    assert (job.started_at, job.ends_at) == (None, None)


def test_how_many_are_ahead_of_a_job_that_waits(asker: Asker, name: str) -> None:
    first, *waiting = [asker.cluster.submit_for_all(name) for _ in range(4)]
    held = asker.cluster.submit(name, held=True)

    def settled() -> bool:
        jobs = asker.jobs(name)
        return all(jobs[each].ahead is not None for each in waiting)

    wait_for(settled, what="the jobs to wait for their turn")
    jobs = asker.jobs(name)
    places = [jobs[each].ahead for each in waiting]
    assert places[0] is not None
    assert places == [places[0], places[0] + 1, places[0] + 2]
    if not jobs[first].state.waits:
        assert (places[0], jobs[first].ahead) == (0, None)
    assert jobs[held].ahead is None


def test_queue_has_every_waiting_job(asker: Asker, name: str) -> None:
    first, *waiting = [asker.cluster.submit_for_all(name) for _ in range(3)]
    held = asker.cluster.submit(name, held=True, user="bob")

    def settled() -> bool:
        return {job.id for job in startable_jobs(asker.ask(asker.cluster.scheduler.queue()))}.issuperset(waiting)

    wait_for(settled, what="the jobs to wait for their turn")
    queue = {job.id: job for job in asker.ask(asker.cluster.scheduler.queue())}
    assert (queue[held].user, queue[held].partitions, queue[held].reason) == ("bob", "gpu", "JobHeldUser")
    assert queue[held].priority == 0 < queue[waiting[0]].priority
    assert queue[waiting[0]].user == "alice"
    assert first in queue or not asker.jobs(name)[first].state.waits


def test_all_users_jobs_with_the_prefix_and_no_others(asker: Asker, name: str) -> None:
    ids = {
        asker.cluster.submit(name, held=True),
        asker.cluster.submit(f"{name}.more", held=True, user="bob"),
    }
    others = [asker.cluster.submit(f"x{name}", held=True), asker.cluster.submit(name[:-1], held=True)]
    assert asker.jobs(name).keys() == ids
    assert {job.user for job in asker.jobs(name).values()} == {"alice", "bob"}
    assert asker.jobs(f"{name}-") == {}
    for job_id in others:
        asker.ask(asker.cluster.scheduler.cancel(job_id))


def test_a_comment_that_the_job_changes_itself(asker: Asker, name: str) -> None:
    job_id = asker.started(name, Work.COMMENT, comment="before")
    wait_for(
        lambda: asker.jobs(name)[job_id].comment == "said by the job: c1:40000",
        what="the comment that the job sets",
    )


def test_a_comment_as_long_as_slurm_takes(asker: Asker, name: str) -> None:
    comment = "".join(chr(33 + index % 90) for index in range(1000))
    job_id = asker.cluster.submit(name, comment=comment, held=True)
    assert asker.jobs(name)[job_id].comment == comment


def test_a_requeued_job_waits_under_its_id_with_one_restart_more(asker: Asker, name: str) -> None:
    job_id = asker.started(name)
    asker.cluster.requeue(job_id)
    asker.wait_until(name, job_id, lambda state: state.waits)
    wait_for(  # until slurmctld has looked at its queue, the job keeps the reason of its last start, such as Prolog
        lambda: asker.jobs(name)[job_id].reason == "BeginTime",
        what="the reason BeginTime",
    )
    job = asker.jobs(name)[job_id]
    assert (job.restarts, job.node, job.reason) == (1, "", "BeginTime")
    assert job.started_at is not None
    assert job.started_at > time.time() + 60
    assert asker.ask(asker.cluster.scheduler.finished_jobs([job_id])) == {}


def test_nothing_is_hidden_without_private_data(asker: Asker) -> None:
    assert asker.ask(asker.cluster.scheduler.private_data()) == frozenset()


def test_accounting_of_the_lab_stores_comments(asker: Asker) -> None:
    assert asker.ask(asker.cluster.scheduler.stores_comments()) is True


def test_an_array_is_one_job_and_each_started_task_is_its_own(asker: Asker, name: str) -> None:
    array = asker.cluster.submit_array(name)
    assert asker.jobs(name).keys() == {array}
    asker.cluster.release(array)
    wait_for(lambda: len(asker.jobs(name)) == 2, what="the first task")
    wait_for(
        lambda: {job.state for job in asker.jobs(name).values()} == {JobState.PENDING, JobState.RUNNING},
        what="one task running and the others waiting",
    )


def test_what_is_left_of_a_refused_job_has_failed_without_a_node(asker: Asker, name: str) -> None:
    asker.cluster.refuse(name, comment="berth:abc:1")
    left = asker.jobs(name).values()
    assert {(job.state, job.node, job.comment) for job in left} <= {(JobState.FAILED, "", "berth:abc:1")}


def test_cancel_ends_a_running_job(asker: Asker, name: str) -> None:
    job_id = asker.started(name)
    asker.ask(asker.cluster.scheduler.cancel(job_id))
    asker.wait_until(name, job_id, lambda state: state is JobState.CANCELLED)


def test_cancel_ends_a_waiting_job(asker: Asker, name: str) -> None:
    job_id = asker.cluster.submit(name, held=True)
    asker.ask(asker.cluster.scheduler.cancel(job_id))
    assert asker.jobs(name)[job_id].state is JobState.CANCELLED


def test_cancel_leaves_other_jobs_alone(asker: Asker, name: str) -> None:
    ids = [asker.cluster.submit(name, held=True) for _ in range(3)]
    asker.ask(asker.cluster.scheduler.cancel(ids[1]))
    assert [asker.jobs(name)[job_id].state.waits for job_id in ids] == [True, False, True]


def test_cancel_of_a_job_that_ended_or_never_was_is_fine(asker: Asker, name: str) -> None:
    job_id = asker.cluster.submit(name, Work.SUCCEED)
    asker.wait_until(name, job_id, lambda state: state.ended)
    asker.ask(asker.cluster.scheduler.cancel(job_id))
    asker.ask(asker.cluster.scheduler.cancel(UNKNOWN_ID))
    assert asker.jobs(name)[job_id].state is JobState.COMPLETED


def test_cancel_of_somebody_else_s_job_is_refused(asker: Asker, name: str) -> None:
    job_id = asker.started(name)
    with asker.scheduler_of("bob") as scheduler, pytest.raises(Refused, match=r"(?i)denied|not permitted"):
        asker.ask(scheduler.cancel(job_id))
    assert asker.jobs(name)[job_id].state is JobState.RUNNING


def test_a_time_limit_is_raised_and_lowered(asker: Asker, name: str) -> None:
    job_id = asker.started(name)
    for minutes in (MINUTES + 30, MINUTES + 10):
        asker.ask(asker.cluster.scheduler.set_time_limit(job_id, minutes))
        job = asker.job(job_id, name)
        assert job is not None
        assert job.started_at is not None
        assert job.ends_at == pytest.approx(job.started_at + minutes * 60, abs=1)


def test_only_an_operator_raises_a_time_limit(asker: Asker, name: str) -> None:
    job_id = asker.started(name)
    with asker.scheduler_of("alice") as scheduler, pytest.raises(Refused, match=r"(?i)denied|not permitted"):
        asker.ask(scheduler.set_time_limit(job_id, MINUTES + 30))


def test_a_job_whose_start_was_put_off_starts_when_told(asker: Asker, name: str) -> None:
    job_id = asker.started(name)
    asker.cluster.requeue(job_id)
    asker.wait_until(name, job_id, lambda state: state is JobState.PENDING)
    asker.ask(asker.cluster.scheduler.start_now(job_id))
    job = asker.job(job_id, name)
    assert job is not None
    assert job.started_at is None or job.started_at < time.time() + 60


@pytest.mark.parametrize("order", ["set_time_limit", "start_now"])
def test_a_job_that_has_ended_or_never_was_cannot_be_changed(asker: Asker, name: str, order: str) -> None:
    job_id = asker.cluster.submit(name, Work.SUCCEED)
    asker.wait_until(name, job_id, lambda state: state.ended)
    scheduler = asker.cluster.scheduler
    for each in (job_id, UNKNOWN_ID):
        with pytest.raises(Refused):
            asker.ask(scheduler.start_now(each) if order == "start_now" else scheduler.set_time_limit(each, 5))


ENDS = {
    Work.SUCCEED: (JobState.COMPLETED, 0, 0),
    Work.FAIL: (JobState.FAILED, 3, 0),
    Work.RAISE_SIGNAL: (JobState.FAILED, 0, 9),
    Work.HOG_MEMORY: (JobState.OUT_OF_MEMORY, 0, 125),
    Work.OVERRUN: (JobState.TIMEOUT, 0, 0),
}


def test_how_jobs_ended(asker: Asker, name: str) -> None:
    ids = {work: asker.cluster.submit(name, work) for work in ENDS}
    cancelled = asker.cluster.submit(name, held=True)
    asker.ask(asker.cluster.scheduler.cancel(cancelled))
    running = asker.started(name)
    asked = [*ids.values(), cancelled, running, UNKNOWN_ID]
    # Slurm looks for jobs beyond their time limit every 30 s, and tells slurmdbd in its own time.
    wait_for(
        lambda: asker.ask(asker.cluster.scheduler.finished_jobs(asked)).keys() == {*ids.values(), cancelled},
        what="the ends of all jobs in accounting",
        seconds=90,
    )
    found = asker.ask(asker.cluster.scheduler.finished_jobs(asked))
    assert {work: (found[i].state, found[i].exit_code, found[i].signal) for work, i in ids.items()} == ENDS
    assert found[cancelled].state is JobState.CANCELLED
    # slurmctld calls a job COMPLETING for a while yet.
    wait_for(lambda: all(asker.jobs(name)[job_id].state.ended for job_id in found), what="the end of all jobs")
    listed = asker.jobs(name)
    for job_id, job in found.items():
        assert (job.id, job.name, job.user, job.state) == (job_id, name, "alice", listed[job_id].state)
        assert (job.submitted_at, job.ended_at) == (listed[job_id].submitted_at, listed[job_id].ends_at)


def test_nobody_asks_about_no_jobs(asker: Asker) -> None:
    assert asker.ask(asker.cluster.scheduler.finished_jobs([])) == {}


def test_version(asker: Asker, request: pytest.FixtureRequest) -> None:
    release = RELEASES[TRIXIE if request.node.callspec.params["asker"] == OLDER else SID]
    assert asker.ask(asker.cluster.scheduler.version()).startswith(f"{release.slurm}.")


HOSTILE = [
    "line\nend",
    "bell\x07 escape\x1b[2J tab\t",
    "\x1f1\x1fbob\x1fRUNNING\x1f",
    "%i %j %T",
    "a|b;c,d:e",
    "\\n \\0 \"quoted\" 'quoted'",
    "ä€😀\u2028",
    "(null)x",
    " spaces ",
    "--format=%i",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_and_comments_of_any_characters(asker: Asker, name: str, text: str) -> None:
    job_id = asker.cluster.submit(name + text, comment=text, held=True)
    ours = asker.cluster.submit(name, held=True)
    jobs = asker.jobs(name)
    assert jobs.keys() == {job_id, ours}
    assert (jobs[job_id].name, jobs[job_id].comment) == (name + text, text)
    assert (jobs[ours].name, jobs[ours].comment) == (name, "")


@pytest.mark.parametrize("where", ["name", "comment"])
def test_nobody_forges_a_job_of_somebody_else(asker: Asker, name: str, where: str) -> None:
    fields = [
        "alice",
        "RUNNING",
        "None",
        "c3",
        "0",
        "1795330774",
        "1795330774",
        "1795339999",
        "berth:abc:1:0:c3:22:SHA256:x",
    ]
    forged = f"\n{name}\x1f{UNKNOWN_ID}\x1f" + "\x1f".join(fields) + "\n"
    text = {"name": name + forged, "comment": "x"} if where == "name" else {"name": name, "comment": forged}
    job_id = asker.cluster.submit(text["name"], comment=text["comment"], user="bob", held=True)
    jobs = asker.jobs(name)
    assert {number: job.user for number, job in jobs.items()} == {job_id: "bob"}
    assert jobs[job_id].state is JobState.PENDING


@pytest.mark.parametrize("text", ["\udcff\udcfe", "a\udcc3"])
def test_bytes_that_are_no_utf_8_harm_nobody_else(asker: Asker, name: str, text: str) -> None:
    """A name that is not UTF-8 may read differently; the jobs beside it may not."""
    foreign = [
        asker.cluster.submit(f"{name}{text}", user="bob", held=True),
        asker.cluster.submit(f"{text}{name}", comment=text, user="bob", held=True),
    ]
    odd = asker.cluster.submit(name, comment=f"x{text}", held=True)
    ours = asker.cluster.submit(name, comment="fine", held=True)
    jobs = asker.jobs(name)
    assert {number for number, job in jobs.items() if job.user == "alice"} == {odd, ours}
    assert jobs[ours].comment == "fine"
    for job_id in foreign:
        asker.ask(asker.cluster.scheduler.cancel(job_id))


async def all_answers(*questions: Coroutine[object, object, object]) -> list[object]:
    """Ask all at once; exceptions are answers."""
    return await asyncio.gather(*questions, return_exceptions=True)


@pytest.mark.parametrize("daemon", ["slurmctld", "munged"])
@pytest.mark.parametrize("dead", [False, True], ids=["stopped", "dead"])
def test_no_answer_within_the_deadline_and_answers_again_afterwards(
    asker: Asker, name: str, daemon: str, *, dead: bool
) -> None:
    scheduler = asker.cluster.scheduler
    job_id = asker.cluster.submit(name, held=True)
    assert asker.jobs(name).keys() == {job_id}
    with asker.cluster.outage(daemon, dead=dead, survivor=name):
        start = time.monotonic()
        questions = (scheduler.jobs(name), scheduler.jobs_by_id([job_id]), scheduler.version())
        answers = asker.ask(all_answers(*questions, scheduler.cancel(UNKNOWN_ID)))
        assert time.monotonic() - start < DEADLINE + 2
        assert [type(answer) for answer in answers] == [NoAnswer] * 4
    assert asker.jobs(name).keys() == {job_id}


@pytest.mark.parametrize("asker", REAL, indirect=True)
@pytest.mark.parametrize("dead", [False, True], ids=["stopped", "dead"])
def test_without_slurmdbd_only_the_past_is_unknown(asker: Asker, name: str, *, dead: bool) -> None:
    scheduler = asker.cluster.scheduler
    job_id = asker.cluster.submit(name, held=True)
    asker.ask(scheduler.cancel(job_id))
    wait_for(lambda: job_id in asker.ask(scheduler.finished_jobs([job_id])), what="the job in accounting")
    with asker.cluster.outage("slurmdbd", dead=dead, survivor=name):
        start = time.monotonic()
        with pytest.raises(NoAnswer):
            asker.ask(scheduler.finished_jobs([job_id]))
        assert time.monotonic() - start < DEADLINE + 2
        assert job_id in asker.jobs(name)
    assert job_id in asker.ask(scheduler.finished_jobs([job_id]))
