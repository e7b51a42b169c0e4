"""The answer of `berth explain` for every state, every end of a job and every reason for waiting."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from broker.controller.reconcile.state import outcome_of_end
from broker.job.bundle import session_script
from broker.schema.sessions import JobView, SessionState
from broker.text.advice import describe_last_end, explain_session
from slurm.state import JobState
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import operation, ready, view

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0
LOG = """\
2027-01-15T08:00:00+0000 berth: job 7, start 0, on c1
2027-01-15T08:00:01+0000 berth: error: of an earlier job
2027-01-15T09:00:00+0000 berth: job 8, start 0, on c1
2027-01-15T09:00:01+0000 berth: error: the image /profiles/base/1/image.sif is not there or cannot be read
2027-01-15T09:00:01+0000 berth: ended with 67
"""


def said(log: str = "", jobs: list[JobView] | None = None, **values: Any) -> dict[str, str]:  # noqa: ANN401 - fields
    shown = view("dev", values.pop("state"), **values) if "state" in values else ready(**values)
    return dict(explain_session(shown, jobs or [], log, NOW))


@pytest.mark.parametrize("state", [state for state in SessionState if state is not SessionState.DELETED])
def test_every_state_has_its_advice(state: SessionState) -> None:
    assert said(state=state)["do"]
    assert "{" not in said(state=state)["do"]


@pytest.mark.parametrize(
    ("end", "advice"),
    [
        (JobState.OUT_OF_MEMORY, "a larger `--mem`; all files and other options are kept"),
        (JobState.TIMEOUT, "a larger `--time`"),
        (JobState.NODE_FAIL, "on another node"),
        (JobState.PREEMPTED, "--continue always"),
        (JobState.CANCELLED, "`berth start dev` starts it again"),
        (JobState.FAILED, "the end of its log"),
    ],
)
def test_how_a_job_ended_is_said_with_the_remedy(end: JobState, advice: str) -> None:
    outcome = outcome_of_end(SessionState.READY, end)
    lines = said(state=outcome.state, reason=outcome.reason, outcome=outcome.outcome, ended_at=NOW - 125)
    assert lines["state"] == f"{outcome.state}: {outcome.reason}"
    assert lines["since"].endswith("(2 min ago)")
    assert advice in lines["do"]


@pytest.mark.parametrize(
    ("end", "option", "command"),
    [
        (JobState.OUT_OF_MEMORY, "--mem=1G", "`berth start dev --mem=2048M` doubles"),
        (JobState.OUT_OF_MEMORY, "--mem-per-cpu=300M", "`berth start dev --mem-per-cpu=600M` doubles"),
        (JobState.OUT_OF_MEMORY, "--mem=0", "a larger `--mem`"),
        (JobState.OUT_OF_MEMORY, "--time=60", "a larger `--mem`"),
        (JobState.TIMEOUT, "--time=1-00:00:00", "`berth start dev --time=48:00:00` doubles"),
        (JobState.TIMEOUT, "--time=UNLIMITED", "a larger `--time`"),
    ],
)
def test_option_whose_limit_was_reached_is_doubled_in_a_command_to_paste(
    end: JobState, option: str, command: str
) -> None:
    outcome = outcome_of_end(SessionState.READY, end)
    assert command in said(state=outcome.state, outcome=outcome.outcome, options=["--gres=gpu:1", option])["do"]


@pytest.mark.parametrize("state", [SessionState.READY, SessionState.STOPPED, SessionState.FAILED])
@pytest.mark.parametrize("level", ["warning", "error", "warning of an earlier version", "error of an earlier version"])
def test_failed_save_of_the_last_job_is_told(state: SessionState, level: str) -> None:
    words = {
        "warning": "the changes outside of the home could not be saved",
        "error": "the changes outside of the home since the last save are lost",
        "warning of an earlier version": "what is outside of the home could not be saved",
        "error of an earlier version": "what has changed outside of the home since the last save is lost",
    }[level]
    assert (words in session_script().decode()) == (level in {"warning", "error"})
    level = level.split(maxsplit=1)[0]
    log = f"{LOG}2027-01-15T09:30:01+0000 berth: {level}: {words} (never before): the disk is full\n"
    assert said(log, state=state)["saves"] == f"{words} (never before): the disk is full"
    for saved in ("saved the changes outside of the home", "saved", "the system is saved, frozen, 0.1 s"):
        assert "saves" not in said(f"{log}2027-01-15T09:30:09+0000 berth: {saved}\n", state=state)
    assert "saves" not in said(f"{log}2027-01-15T09:31:01+0000 berth: job 9, start 0, on c1\n", state=state)


def test_interruption_is_named_while_the_job_waits_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"interruption": "node c1 failed", "interrupted_at": NOW - 60, "job_id": 7}
    for reason, advice in (("BeginTime", "without this pause"), ("Priority", "a shorter --time")):
        lines = said(state=SessionState.QUEUED, reason=reason, **fields)
        assert lines["state"].startswith(f"queued again after an interruption (node c1 failed): {reason} (")
        assert "its start time has not come" not in lines["state"]
        assert lines["before"].endswith(": node c1 failed; files are kept, running programs were ended")
        assert advice in lines["do"]
    assert "node c1 failed" in said(**fields)["before"], "also when it is ready again"
    assert "before" not in said(state=SessionState.STOPPED, **fields)
    with command_line(monkeypatch, tmp_path) as controller:
        controller.sessions = {"dev": view("dev", SessionState.QUEUED, reason="Priority", **fields)}
        assert "node c1 failed; Priority" in run("list").stdout
        assert "node c1 failed; files are kept" in run("show", "dev").stdout


@pytest.mark.parametrize(
    ("condition", "text", "advice"),
    [
        ("draining", "node c2 takes no new jobs (new kernel); the job continues until ", "`berth restart dev` moves"),
        ("not responding", "node c2 does not answer Slurm (new kernel); if that lasts, Slurm requeues", "requeues"),
        ("down", "node c2 is down (new kernel); Slurm requeues or ends the job", "keeps its files"),
    ],
)
def test_condition_of_the_node_is_named_with_what_follows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, condition: str, text: str, advice: str
) -> None:
    fields: dict[str, Any] = {"node_condition": condition, "node_reason": "new kernel", "ends_at": NOW + 7200}
    lines = said(**fields)
    assert lines["state"].startswith(f"ready on c2; {text}")
    assert (condition == "draining") == lines["state"].endswith("(in 2 h)")
    assert advice in lines["do"]
    with command_line(monkeypatch, tmp_path) as controller:
        controller.sessions = {"dev": ready(**fields)}
        assert f"c2, node {condition}" in run("list").stdout


def test_a_failure_comes_with_what_the_last_job_said_of_it() -> None:
    lines = said(LOG, state=SessionState.FAILED, outcome="FAILED", reason="the job failed")
    assert lines["log"].endswith("image.sif is not there or cannot be read")
    assert describe_last_end(LOG.replace("error", "warning"))[-1].endswith("ended with 67")
    assert describe_last_end("") == []


@pytest.mark.parametrize(
    ("reason", "words", "advice"),
    [
        ("Resources", "waiting for free resources", "a shorter --time"),
        ("JobHeldUser", "you hold it", "`scontrol release 7`"),
        ("PartitionTimeLimit", "more time than the partition allows", "the job cannot start"),
        ("QOSMaxGRESPerUser", "as many GPUs as your QOS allows", "stop another of your sessions"),
        ("SomethingNew", "SomethingNew", "it starts when Slurm schedules it"),
    ],
)
def test_why_it_waits_is_said_in_words(reason: str, words: str, advice: str) -> None:
    lines = said(state=SessionState.QUEUED, reason=reason, job_id=7, submitted_at=NOW - 30, expected_start_at=NOW + 600)
    assert words in lines["state"]
    assert "(in 10 min)" in lines["state"]
    assert lines["since"].endswith("(30 s ago)")
    assert advice in lines["do"]


def test_a_start_that_takes_long_shows_the_log() -> None:
    short: dict[str, Any] = {"state": SessionState.STARTING, "reason": "starting on c1"}
    assert said(LOG, **short, started_at=NOW - 5)["do"] == "no action needed: this takes a few seconds"
    lines = said("mounting\n", **short, started_at=NOW - 90)
    assert lines["do"].startswith("the start is unusually slow")
    assert lines["log"] == "mounting"


def test_a_ready_one_says_how_often_it_was_carried_on() -> None:
    runs = [(3, 8), (2, 7), (1, 7)]  # two of them in one job
    jobs = [JobView(submission=number, job_id=job, asked_at=1.0, started_at=2.0) for number, job in runs]
    assert said(jobs=jobs, started_at=NOW - 3600)["since"].endswith("(1 h ago); 2nd job of this session")
    assert said(operation=operation("snapshot"))["do"] == "no action needed; this takes a few seconds"
    assert "has not answered since" in said(stale_since=NOW - 60)["stale"]


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with command_line(monkeypatch, tmp_path) as controller:
        controller.sessions["dev"] = view(
            state=SessionState.FAILED, outcome="OUT_OF_MEMORY", reason="out of memory", ended_at=time.time() - 10
        )
        controller.logs["dev"].append(LOG)
        result = run("explain", "dev")
        assert result.stdout.splitlines()[0] == "dev"
        assert "  state      failed: out of memory" in result.stdout
        assert "  log        2027-01-15T09:00:01+0000 berth: error: the image" in result.stdout
        assert '"title": "do"' in run("explain", "dev", "--json").stdout
