"""The pure part of the loop: what a session becomes, given what Slurm shows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.controller.reconcile.state import next_state, outcome_of_end, outcome_of_lost_job
from broker.schema.sessions import LIVE, Endpoint, SessionState
from slurm.scheduler import Job
from slurm.state import JobState

ENDPOINT = Endpoint(node="c1", port=4242, fingerprint="SHA256:" + "A" * 43)


def job(state: JobState, reason: str = "") -> Job:
    return Job(
        id=7,
        name="berth-x",
        user="alice",
        state=state,
        reason=reason,
        comment="",
        node="c1",
        restarts=0,
        submitted_at=1.0,
        started_at=2.0,
        ends_at=3.0,
    )


@given(st.sampled_from(sorted(LIVE)), st.sampled_from(list(JobState)), st.booleans())
def test_every_combination_has_an_answer_and_only_a_ready_session_has_an_endpoint(
    state: SessionState, word: JobState, announced: bool
) -> None:
    outcome = next_state(state, job(word), ENDPOINT if announced else None)
    assert outcome.state in SessionState
    if outcome.state is SessionState.READY and state is not SessionState.READY:
        assert outcome.endpoint == ENDPOINT
    assert bool(outcome.outcome) == word.ended


@pytest.mark.parametrize(
    ("word", "announced", "expected"),
    [
        (JobState.PENDING, False, SessionState.QUEUED),
        (JobState.REQUEUED, True, SessionState.QUEUED),
        (JobState.CONFIGURING, False, SessionState.STARTING),
        (JobState.RUNNING, False, SessionState.STARTING),
        (JobState.RUNNING, True, SessionState.READY),
        (JobState.COMPLETED, True, SessionState.STOPPED),
        (JobState.CANCELLED, True, SessionState.STOPPED),
        (JobState.OUT_OF_MEMORY, True, SessionState.FAILED),
        (JobState.TIMEOUT, True, SessionState.FAILED),
        (JobState.NODE_FAIL, True, SessionState.FAILED),
    ],
)
def test_a_ready_session_follows_its_job(word: JobState, announced: bool, expected: SessionState) -> None:
    assert next_state(SessionState.READY, job(word), ENDPOINT if announced else None).state is expected


@pytest.mark.parametrize("word", [JobState.UNKNOWN, JobState.COMPLETING])
@pytest.mark.parametrize("state", sorted(LIVE - {SessionState.STOPPING}))
def test_what_is_not_news_changes_no_state(state: SessionState, word: JobState) -> None:
    assert next_state(state, job(word), ENDPOINT).state is state


@pytest.mark.parametrize("word", [word for word in JobState if not word.ended])
def test_a_session_that_was_told_to_stop_never_comes_back(word: JobState) -> None:
    assert next_state(SessionState.STOPPING, job(word), ENDPOINT).state is SessionState.STOPPING


@pytest.mark.parametrize("word", [word for word in JobState if word.ended])
def test_any_end_after_stop_is_a_stop(word: JobState) -> None:
    assert outcome_of_end(SessionState.STOPPING, word).state is SessionState.STOPPED


def test_out_of_memory_says_so_and_what_to_do() -> None:
    outcome = outcome_of_end(SessionState.READY, JobState.OUT_OF_MEMORY, "OutOfMemory")
    assert outcome.outcome == "OUT_OF_MEMORY"
    assert "--mem" in outcome.reason


def test_a_lost_job_fails_a_session_and_stops_one_that_was_to_stop() -> None:
    assert outcome_of_lost_job(SessionState.READY).state is SessionState.FAILED
    assert outcome_of_lost_job(SessionState.STOPPING).state is SessionState.STOPPED
