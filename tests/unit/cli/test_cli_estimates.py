"""The expected start of a session's next job: what users read before they agree to the end of the present one."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from broker import errors
from broker.schema.checks import CheckReport, CheckRequest, StartEstimate
from broker.schema.sessions import SessionState
from broker.text.question import describe_estimate, describe_plan
from tests.deadlines import DEADLINE_S
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, posted, ready, view

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOON = time.mktime((2026, 11, 22, 12, 0, 0, 0, 0, -1))
AT_TWO = NOON + 7200


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as scripted:
        scripted.sessions["dev"] = ready()
        yield scripted


@pytest.mark.parametrize(
    ("estimate", "says"),
    [
        (StartEstimate(at=NOON, waiting=3), "Slurm expects to start it again at once"),
        (StartEstimate(at=NOON - 5), "Slurm expects to start it again at once"),
        (
            StartEstimate(at=AT_TWO, waiting=0),
            "no other job waits for resources, so it may take those of its present job",
        ),
        (StartEstimate(at=AT_TWO, waiting=0), "without them, Slurm expects to start it at 14:00 (in 2 h)"),
        (
            StartEstimate(at=AT_TWO, waiting=1),
            "it may have to wait, since 1 other job waits for resources; Slurm expects to start it at 14:00 (in 2 h)",
        ),
        (StartEstimate(at=AT_TWO, waiting=2), "it may have to wait, since 2 other jobs wait for resources"),
        (StartEstimate(at=AT_TWO), "beside its present job, Slurm expects to start the next one at 14:00 (in 2 h)"),
        (
            StartEstimate(refusal="Requested node configuration is not available"),
            "beside its present job, Slurm would not start the next one now: Requested node configuration is not",
        ),
    ],
)
def test_each_estimate_in_words(estimate: StartEstimate, says: str) -> None:
    assert says in describe_estimate(estimate, NOON)


@pytest.mark.parametrize(
    ("estimate", "says"),
    [
        (StartEstimate(at=NOON + 5), "Slurm expects to start the new job at once, beside the present one"),
        (
            StartEstimate(at=AT_TWO),
            "Slurm expects to start the new job at 14:00 (in 2 h); until then the session keeps its present job",
        ),
    ],
)
def test_each_estimate_beside_the_present_job(estimate: StartEstimate, says: str) -> None:
    report = CheckReport(session=ready(), ends_job=True, beside=True, estimate=estimate)
    assert describe_plan(report, "continues in a new job with -c2", NOON) == [
        "dev: continues in a new job with -c2; its programs run on until the new job runs, and end then",
        f"dev: {says}",
    ]


@pytest.mark.parametrize(("fits", "agreed"), [(True, "keep"), (False, "end")])
def test_answer_holds_for_what_was_said(controller: ScriptedController, *, fits: bool, agreed: str) -> None:
    """Slurm's answer changes after the question: a job that the user has agreed to keep is not ended."""
    controller.estimates["dev"] = StartEstimate(at=time.time(), waiting=0)
    controller.sessions["dev"] = ready(beside=fits)  # what the check answers
    controller.script["dev"].extend([ready(resizing=True, beside=fits), ready(job_id=8)])
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "broker.cli", "resize", "dev", "--gres=none"]
    with subprocess.Popen(command, stdin=follower, stderr=subprocess.PIPE, text=True) as process:
        os.close(follower)
        os.write(leader, b"y\n")
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(DEADLINE_S) == 0, said
    os.close(leader)
    assert ("beside the present one" in said) == fits
    [(_, body)] = posted(controller)
    assert body == {"options": ["--gres=none"], "present_job": agreed}


@pytest.mark.parametrize(
    ("flags", "sent"),
    [
        (("--keep", "--json"), "keep"),
        (("--end-first", "--json"), "end"),
        (("--json",), "auto"),
        (("--keep",), "keep"),
        (("--end-first",), "end"),
    ],
)
def test_answer_does_not_replace_what_the_user_has_chosen(
    controller: ScriptedController, flags: tuple[str, ...], sent: str
) -> None:
    """With --json Slurm is not asked before the question, so that the report knows nothing of both jobs."""
    controller.sessions["dev"] = ready(beside="--json" not in flags and sent == "keep")
    controller.script["dev"].extend([ready(resizing=True), ready(job_id=8)])
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "broker.cli", "resize", "dev", *flags, "--gres=none"]
    with subprocess.Popen(
        command, stdin=follower, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(follower)
        os.write(leader, b"y\n")
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(DEADLINE_S) == 0, said
    os.close(leader)
    assert [body["present_job"] for _, body in posted(controller)] == [sent]


@pytest.mark.parametrize("words", [("resize", "dev", "--gres=none"), ("restart", "dev")])
@pytest.mark.parametrize(("answer", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_resize_and_restart_ask_at_a_terminal(
    controller: ScriptedController, words: tuple[str, ...], answer: bytes, code: int
) -> None:
    controller.estimates["dev"] = StartEstimate(at=time.time(), waiting=0)
    if words[0] == "restart":
        controller.script["dev"].extend([ready()])
    else:
        controller.script["dev"].extend([ready(resizing=True), ready(job_id=8)])
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "broker.cli", *words]
    with subprocess.Popen(command, stdin=follower, stderr=subprocess.PIPE, text=True) as process:
        os.close(follower)
        os.write(leader, answer)
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(DEADLINE_S) == code, said
    os.close(leader)
    assert said.index("dev: Slurm expects to start it again at once") < said.index("End all programs in dev?")
    assert bool(posted(controller)) == (code == 0)


def test_scripts_resize_without_a_question_and_without_an_estimate(controller: ScriptedController) -> None:
    controller.script["dev"].extend([ready(resizing=True), ready(job_id=8)])
    result = run("resize", "dev", "--gres=none")
    assert (result.exit_code, "End all" in result.stderr) == (0, False)
    [estimate] = [body["estimate"] for _, path, body in controller.asked if path.endswith("/check")]
    assert estimate is False


def test_session_without_a_job_gets_no_estimate(controller: ScriptedController) -> None:
    controller.sessions["dev"] = view("dev", SessionState.STOPPED)
    controller.script["dev"].extend([ready()])
    result = run("restart", "dev")
    assert (result.exit_code, "Slurm expects" in result.stderr) == (0, False)


def test_controller_of_an_earlier_version_changes_nothing(controller: ScriptedController) -> None:
    unknown = errors.NotFoundError("POST /v1/sessions/dev/check: Not Found")
    controller.failures["POST /v1/sessions/dev/check"] = unknown
    result = run("switch", "dev", "base@2", "--yes")
    assert result.exit_code == 7
    assert "the controller has an earlier version, which cannot check requests\n  hint: it must be re" in result.stderr
    assert posted(controller) == []


@pytest.mark.parametrize("fields", [{}, {"root": True, "delete": True}, {"estimate": True}])
def test_check_is_of_exactly_one_request(fields: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="exactly one request"):
        CheckRequest.model_validate(fields)
