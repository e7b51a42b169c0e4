"""`berth history`, `extend` and `set --continue`, and what `list` and `show` say of the end of a job."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from broker.errors import RefusedError
from broker.schema import sessions
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, ready

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedController]:
    with command_line(monkeypatch, tmp_path) as running:
        running.sessions["dev"] = ready(continuation="12h")
        yield running


def test_history_is_a_table_of_jobs_and_a_sum(controller: ScriptedController) -> None:
    began = time.time() - 10 * 3600
    controller.jobs["dev"] = [
        sessions.JobView(submission=3, asked_at=began),
        sessions.JobView(submission=2, job_id=8, node="c2", gpus=2, asked_at=began, started_at=began + 7200),
        sessions.JobView(
            submission=1,
            job_id=7,
            node="c1",
            gpus=1,
            asked_at=began,
            started_at=began,
            ended_at=began + 5400,
            restarts=1,
            interruption="node c3 failed",
            outcome="NODE_FAIL",
            reason="node c1 failed",
        ),
    ]
    result = run("history", "dev")
    heading, first, second, third = result.stdout.splitlines()
    assert re.split(" {2,}", heading) == ["JOB", "NODE", "STARTED", "RAN FOR", "GPU HOURS", "ENDED AS"]
    assert first.strip() == "not submitted"
    assert re.split(" {2,}", second)[-3:] == ["8 h", "16.0", "running"]
    assert re.split(" {2,}", third)[:2] == ["7", "c1"]
    assert re.split(" {2,}", third)[3:] == [
        "1 h 30 min",
        "1.5",
        "NODE_FAIL (node c1 failed) (requeued 1x: node c3 failed)",
    ]
    assert result.stderr == "3 jobs, 17.5 GPU hours\n"
    told = json.loads(run("history", "dev", "--json").stdout)
    assert [job["job_id"] for job in told["jobs"]] == [None, 8, 7]
    assert told["gpu_hours"] == pytest.approx(17.5, abs=0.1)


def test_runs_in_a_kept_job_are_not_counted_as_jobs(controller: ScriptedController) -> None:
    began = time.time() - 3600
    controller.jobs["dev"] = [
        sessions.JobView(
            submission=number, job_id=job, asked_at=began, started_at=began, ended_at=ended, outcome=outcome
        )
        for number, job, ended, outcome in [(3, 8, None, ""), (2, 7, began + 60, "COMPLETED"), (1, 7, began, "HELD")]
    ]
    result = run("history", "dev")
    outcomes = [re.split(" {2,}", line)[-1] for line in result.stdout.splitlines()[1:]]
    assert outcomes == ["running", "COMPLETED", "job kept for the next run"]
    assert result.stderr == "3 runs of 2 jobs\n"


@pytest.mark.parametrize(
    ("policy", "sent"),
    [("always", "always"), ("12h", "12h"), ("default", None), ("1h30m", "90m"), ("2-12", "60h"), ("90", "90m")],
)
def test_set_decides_whether_it_goes_on(controller: ScriptedController, policy: str, sent: str | None) -> None:
    result = run("set", "dev", "--continue", policy)
    assert controller.asked[-1] == ("PUT", "/v1/sessions/dev/continuation", {"continuation": sent})
    assert result.stderr == "dev continues in a new job when its job has to end, if used in the last 12h\n"


@pytest.mark.parametrize("policy", ["", "sometimes", "0h", "0", "12w", "-1h", "90s", "9999d1h"])
def test_a_policy_that_is_none_is_refused_at_once(controller: ScriptedController, policy: str) -> None:
    result = run("set", "dev", f"--continue={policy}")
    assert result.exit_code == 2
    assert ", or always, never, default" in result.stderr
    assert re.search(r"1h30m, 2d|whole number of minutes", result.stderr)
    assert controller.asked == []


def test_extend_tells_the_new_end(controller: ScriptedController) -> None:
    controller.script["dev"].append(ready(ends_at=time.time() + 6 * 3600 + 30))
    result = run("extend", "dev", "4h")
    assert controller.asked[-1] == ("POST", "/v1/sessions/dev/extend", {"seconds": 14400.0})
    assert result.stderr.startswith("dev: the job ends at ")
    assert result.stderr.endswith("(in 6 h)\n")


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("4", 240), ("1:00:00", 3600), ("1h30m", 5400), ("2d", 172800), ("1-12", 129600), ("90:30", 5430), ("1.5h", 5400)],
)
def test_extend_takes_every_form_of_a_time(controller: ScriptedController, given: str, seconds: float) -> None:
    controller.script["dev"].append(ready(ends_at=time.time() + 3600))
    assert run("extend", "dev", given).exit_code == 0
    assert controller.asked[-1] == ("POST", "/v1/sessions/dev/extend", {"seconds": float(seconds)})


@pytest.mark.parametrize(
    ("given", "reason"), [("soon", "1h30m"), ("0", "not longer than 0"), ("367d", "366 d"), ("400d", "366 d")]
)
def test_extend_refuses_other_times_at_once(controller: ScriptedController, given: str, reason: str) -> None:
    result = run("extend", "dev", given)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert controller.asked == []


def test_extend_that_is_refused_says_what_happens_instead(controller: ScriptedController) -> None:
    controller.script["dev"].append(
        RefusedError(
            "this site does not extend jobs", hint="the job ends at 18:05, then the session continues in job 13"
        )
    )
    result = run("extend", "dev", "30m")
    assert result.exit_code == 4
    assert result.stderr.splitlines() == [
        "berth: this site does not extend jobs",
        "  hint: the job ends at 18:05, then the session continues in job 13",
    ]


def test_list_and_show_tell_of_the_end_before_it_comes(controller: ScriptedController) -> None:
    controller.sessions["dev"] = ready(continuation="always", next_job_id=13, ends_at=time.time() + 245)
    assert "4 min, then job 13" in run("list").stdout
    shown = run("show", "dev").stdout
    assert "ready on c2; job ends at " in shown
    assert "(in 4 min), then the session continues in job 13" in shown
    assert "job's end  continues in a new job when its job has to end" in shown
    controller.sessions["dev"] = ready(continuation="never", ends_at=time.time() + 245)
    assert "then the session stops and keeps its files" in run("show", "dev").stdout
    controller.sessions["dev"] = ready(continuation="12h", used_at=time.time() - 130)
    assert "if used in the last 12h; last used 2 min ago" in run("show", "dev").stdout
    controller.sessions["dev"] = ready(continuation="never", ends_at=time.time() + 3600)
    assert "job ends" not in run("show", "dev").stdout
