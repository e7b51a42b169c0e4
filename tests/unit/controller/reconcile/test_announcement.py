"""Only what a job's own present run says of itself counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.controller.reconcile.job_comment import matching_announcement, read
from broker.schema.sessions import Endpoint
from slurm.scheduler import Job
from slurm.state import JobState

ID = "01jd0000000000000000000000"
FINGERPRINT = "SHA256:" + "a" * 43
JOB = Job(
    id=7,
    name=f"berth-{ID}",
    user="alice",
    state=JobState.RUNNING,
    reason="",
    comment=f"berth:{ID}:3:1:c2:4242:{FINGERPRINT}",
    node="c2",
    restarts=1,
    submitted_at=1.0,
    started_at=2.0,
    ends_at=3.0,
)


def test_a_true_announcement_is_the_endpoint() -> None:
    said = matching_announcement(JOB, 3, FINGERPRINT)
    assert said is not None
    assert said.endpoint == Endpoint(node="c2", port=4242, fingerprint=FINGERPRINT)
    assert (said.idle_since, said.gpu_idle_since) == (None, None)


@pytest.mark.parametrize(
    ("use", "known"), [(":1732690000:", (1732690000.0, None)), ("::17", (None, 17.0)), (":5:17", (5.0, 17.0))]
)
def test_since_when_it_is_idle(use: str, known: tuple[float | None, float | None]) -> None:
    said = matching_announcement(replace(JOB, comment=JOB.comment + use), 3, FINGERPRINT)
    assert said is not None
    assert said.endpoint is not None
    assert (said.idle_since, said.gpu_idle_since) == known


@pytest.mark.parametrize(
    "lie",
    [
        replace(JOB, restarts=2),
        replace(JOB, node="c1"),
        replace(JOB, state=JobState.PENDING),
        replace(JOB, state=JobState.COMPLETED),
        replace(JOB, name="berth-01jd0000000000000000000001"),
        replace(JOB, comment=f"berth:{ID}:3"),
        replace(JOB, comment=JOB.comment.replace(":3:1:", ":2:1:")),
        replace(JOB, comment=f"berth:{ID}:3:1:c2:0:{FINGERPRINT}"),
        replace(JOB, comment=f"berth:{ID}:3:1:c2:65536:{FINGERPRINT}"),
        replace(JOB, comment=f"berth:{ID}:3:1:c2:4242:{FINGERPRINT}\nx"),
        replace(JOB, comment=f"berth:{ID}:3:1:c2:4242:{FINGERPRINT}:5"),
        replace(JOB, comment=f"berth:{ID}:3:1:c2:4242:{FINGERPRINT}:-5:"),
        replace(JOB, comment=f"berth:{ID}:3:1:c2:4242:{FINGERPRINT}:5:5:5"),
    ],
)
def test_what_is_not_true_of_this_run_is_no_endpoint(lie: Job) -> None:
    assert matching_announcement(lie, 3, FINGERPRINT) is None


@pytest.mark.parametrize("rest", ["", ":5:17", f":1:c2:4242:{FINGERPRINT}", f":1:c2:4242:{FINGERPRINT}:5:"])
@pytest.mark.parametrize("name", ["dev", "a" + "-9" * 19])
def test_comment_with_a_session_name_says_the_same(rest: str, name: str) -> None:
    plain = replace(JOB, comment=f"berth:{ID}:3{rest}")
    assert read(replace(plain, comment=f"{plain.comment} {name}")) == read(plain)


@pytest.mark.parametrize("name", ["", " dev", "Dev", "dev dev", "9", "a" * 40, "dev\n", "dev:5:5", "d;e"])
def test_text_after_a_comment_that_is_no_name_is_refused(name: str) -> None:
    assert read(replace(JOB, comment=f"{JOB.comment} {name}")) is None


def test_another_host_key_is_no_endpoint() -> None:
    assert matching_announcement(JOB, 3, "SHA256:" + "b" * 43) is None


@given(st.text(max_size=80))
def test_no_comment_breaks_the_reader(comment: str) -> None:
    said = read(replace(JOB, comment=comment))
    assert said is None or said.session_id == ID
