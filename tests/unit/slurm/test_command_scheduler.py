"""The reading of squeue's and sacct's answers, with programs in their place that print the same."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slurm.command_scheduler import CommandScheduler
from slurm.queue_position import QueuedJob, startable_jobs
from slurm.scheduler import FinishedJob, Job, NoAnswer, Refused
from slurm.state import JobState
from tests.deadlines import DEADLINE_S

T = TypeVar("T")

# Prints each job of jobs.json in the given format, as squeue does: `Field:suffix,…`, then a line end.
SQUEUE = """
import json, os, sys
fields = [field.split(":", 1) for field in os.environ["SQUEUE_FORMAT2"].split(",")]
assert os.environ["SLURM_TIME_FORMAT"] == "%s"
assert sys.argv[1:] == ["--noheader", "--all", "--states=all", "--sort=i"]
jobs = json.load(open("jobs.json"))
out = "".join("".join(job[name] + end for name, end in fields) + "\\n" for job in jobs)
sys.stdout.buffer.write(out.encode("latin-1"))
"""

SACCT = """
import json, os, sys
options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
stamp = os.environ["SLURM_TIME_FORMAT"]
for job in json.load(open("jobs.json")):
    times = {name: stamp.replace("%s", job[name]) for name in ("Submit", "End") if job[name].isdigit()}
    print(*((job | times)[name] for name in options["format"].split(",")), sep=options["delimiter"])
"""

JOB = {
    "JobId": "7",
    "Name": "berth-a",
    "UserName": "alice",
    "State": "RUNNING",
    "Reason": "None",
    "NodeList": "c1",
    "RestartCnt": "2",
    "SubmitTime": "1795330774",
    "StartTime": "1795330775",
    "EndTime": "N/A",
    "PriorityLong": "5",
    "Partition": "gpu",
    "Comment": "(null)",
}
ENDED = {
    "JobIDRaw": "7",
    "JobName": "berth-a",
    "User": "alice",
    "State": "CANCELLED by 54321",
    "ExitCode": "0:15",
    "Submit": "1795330774",
    "End": "1795330999",
}


class Commands:
    """A folder of programs that stand in for Slurm's, and the scheduler that runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scheduler = CommandScheduler(
            ("/usr/bin/env", "-C", str(folder), f"PATH={folder}:{os.environ['PATH']}"), timeout=DEADLINE_S
        )

    def put(self, name: str, source: str) -> None:
        path = self.folder / name
        path.write_text(f"#!{sys.executable} -IS\n{source}")
        path.chmod(0o755)

    def show(self, *jobs: dict[str, str]) -> None:
        (self.folder / "jobs.json").write_text(json.dumps(jobs))

    def ask(self, question: Callable[[CommandScheduler], Awaitable[T]]) -> T:
        async def answer() -> T:
            return await question(self.scheduler)

        return asyncio.run(answer())

    def jobs(self, prefix: str = "berth-") -> list[Job]:
        return self.ask(lambda scheduler: scheduler.jobs(prefix))

    def finished(self, *job_ids: int) -> dict[int, FinishedJob]:
        return self.ask(lambda scheduler: scheduler.finished_jobs(job_ids))


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    made = Commands(tmp_path)
    made.put("squeue", SQUEUE)
    made.put("sacct", SACCT)
    return made


def test_every_field_of_a_job(commands: Commands) -> None:
    commands.show(JOB)
    assert commands.jobs() == [
        Job(
            id=7,
            name="berth-a",
            user="alice",
            state=JobState.RUNNING,
            reason="",
            comment="",
            node="c1",
            restarts=2,
            submitted_at=1795330774.0,
            started_at=1795330775.0,
            ends_at=None,
        )
    ]


def test_how_many_are_ahead(commands: Commands) -> None:
    """By priority, then by id, in each partition. Jobs that are held, or could not start yet, delay no other job."""
    waits = JOB | {"State": "PENDING", "Reason": "Priority", "Name": "other"}
    commands.show(
        waits | {"JobId": "1", "PriorityLong": "9"},
        waits | {"JobId": "2"},
        waits | {"JobId": "3", "PriorityLong": "9", "Partition": "big"},
        waits | {"JobId": "4", "PriorityLong": "0"},
        waits | {"JobId": "5", "PriorityLong": "9", "Reason": "Dependency"},
        waits | {"JobId": "6", "Name": "berth-a"},
        waits | {"JobId": "7", "Name": "berth-b", "Partition": "gpu,big"},
        waits | {"JobId": "8", "Name": "berth-c", "PriorityLong": "0"},
        waits | {"JobId": "9", "Name": "berth-d", "PriorityLong": "8"},
        JOB | {"JobId": "10"},
    )
    assert {job.id: job.ahead for job in commands.jobs()} == {6: 3, 7: 1, 8: None, 9: 1, 10: None}


def test_queue_has_every_waiting_job(commands: Commands) -> None:
    squeue = SQUEUE.replace('assert os.environ["SLURM_TIME_FORMAT"] == "%s"', "")
    commands.put("squeue", squeue.replace('"--states=all", "--sort=i"', '"--states=PENDING"'))
    waits = JOB | {"State": "PENDING", "Reason": "Priority"}
    commands.show(
        waits | {"JobId": "1"},
        waits | {"JobId": "2", "PriorityLong": "0"},
        waits | {"JobId": "3", "Reason": "BeginTime"},
        waits | {"JobId": "4", "Reason": "(Nodes required for job are DOWN, DRAINED)"},
    )
    queue = commands.ask(lambda scheduler: scheduler.queue())
    assert queue[1] == QueuedJob(2, 0, "gpu", "Priority", "alice")
    assert [job.id for job in startable_jobs(queue)] == [1, 4]
    commands.show(waits | {"JobId": "many"})
    with pytest.raises(NoAnswer, match="cannot be read"):
        commands.ask(lambda scheduler: scheduler.queue())


def test_no_jobs_is_an_answer(commands: Commands) -> None:
    commands.show()
    assert commands.jobs() == []


def test_only_names_with_the_prefix(commands: Commands) -> None:
    commands.show(JOB | {"Name": "other"}, JOB | {"Name": "xberth-a"}, JOB, JOB | {"Name": "berth"})
    assert [job.name for job in commands.jobs()] == ["berth-a"]


# What an attacker would write who knows everything but the word made for the call.
FORGED_SQUEUE = "\x1f7\x1falice\x1fCOMPLETED\x1fNone\x1fc9\x1f0\x1f1\x1f1\x1f1\x1f5\x1fgpu\x1fberth:a:1\x1f"


@given(
    name=st.text(st.characters(max_codepoint=255, exclude_characters="\0")),
    comment=st.text(st.characters(max_codepoint=255, exclude_characters="\0")) | st.just(f"\nberth-a{FORGED_SQUEUE}\n"),
    prefix=st.sampled_from(["", "berth-", "berth-a\x1f"]),
)
@settings(
    max_examples=25,  # each starts a program
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the programs are the same for every example
)
def test_names_and_comments_never_pass_for_records(commands: Commands, name: str, comment: str, prefix: str) -> None:
    foreign = JOB | {"JobId": "8", "UserName": "bob", "Name": prefix + name, "Comment": comment}
    commands.show(foreign, JOB, foreign | {"JobId": "9"})
    jobs = commands.jobs("")
    assert [(job.id, job.user) for job in jobs] == [(8, "bob"), (7, "alice"), (9, "bob")]
    expected = (prefix + name).encode("latin-1").decode(errors="replace")
    assert jobs[0].name == jobs[2].name == expected


def test_nodes_and_partitions_that_cannot_be_read_are_no_answer(commands: Commands) -> None:
    for text in ("NodeName=c1 CPUTot=8", "PartitionName=gpu Default=YES"):
        commands.put("scontrol", f"print({text!r})")
        question = CommandScheduler.nodes if "Node" in text else CommandScheduler.partitions
        with pytest.raises(NoAnswer, match="a line has no 'State'"):
            commands.ask(question)
        commands.put("scontrol", f"print({text!r}, end='')")
        with pytest.raises(NoAnswer, match="cut off"):
            commands.ask(question)


def test_an_answer_that_is_cut_off_is_none(commands: Commands) -> None:
    commands.show(JOB, JOB)
    commands.put("squeue", SQUEUE.replace("out.encode", "out[:-3].encode"))
    with pytest.raises(NoAnswer, match="cut off"):
        commands.jobs()


@pytest.mark.parametrize("field", ["JobId", "RestartCnt"])
def test_a_record_that_cannot_be_read_is_no_answer(commands: Commands, field: str) -> None:
    commands.show(JOB | {field: "many"})
    with pytest.raises(NoAnswer, match="cannot be read"):
        commands.jobs()


def test_how_jobs_ended(commands: Commands) -> None:
    running = ENDED | {"JobIDRaw": "8", "State": "RUNNING", "End": "Unknown", "ExitCode": "0:0"}
    commands.show(ENDED, running, ENDED | {"JobIDRaw": "9", "State": "FAILED", "ExitCode": "70:0"})
    found = commands.finished(7, 8, 9, 10)
    assert found[7] == FinishedJob(
        id=7,
        name="berth-a",
        user="alice",
        state=JobState.CANCELLED,
        exit_code=0,
        signal=15,
        submitted_at=1795330774.0,
        ended_at=1795330999.0,
        cancelled_by="54321",
    )
    assert (found[9].state, found[9].exit_code) == (JobState.FAILED, 70)
    assert found.keys() == {7, 9}


def test_a_job_name_never_passes_for_a_record_of_sacct(commands: Commands) -> None:
    forged = "x\n1\x1f2\x1f9\x1fbob\x1fCOMPLETED\x1f0:0\x1fberth-b\n"
    commands.show(ENDED | {"JobName": forged}, ENDED | {"JobIDRaw": "9", "State": "FAILED", "User": "bob"})
    found = commands.finished(7, 9)
    assert (found[7].name, found[7].user) == (forged, "alice")
    assert (found[9].state, found[9].name, found[9].user) == (JobState.FAILED, "berth-a", "bob")


def test_nothing_is_asked_about_no_jobs(commands: Commands) -> None:
    commands.put("sacct", "raise SystemExit(1)")
    assert commands.finished() == {}


def test_a_cluster_without_accounting_remembers_no_job(commands: Commands) -> None:
    commands.put("sacct", "import sys; sys.exit('Slurm accounting storage is disabled')")
    assert commands.finished(7) == {}


@pytest.mark.parametrize("output", ["Unknown nonsense\n", "1\x1f2\x1f7\x1falice\x1fFAILED\x1f0:0\x1fberth-a\n"])
def test_what_sacct_says_beside_its_records_is_no_answer(commands: Commands, output: str) -> None:
    commands.put("sacct", f"print({output!r}, end='')")
    with pytest.raises(NoAnswer, match="cannot be read"):
        commands.finished(7)


@pytest.mark.parametrize("program", ["squeue", "sacct", "scontrol", "scancel"])
def test_an_error_is_no_answer(commands: Commands, program: str) -> None:
    commands.put(program, "import sys; sys.exit('Unable to contact slurm controller (connect failure)')")
    questions: dict[str, Callable[[CommandScheduler], Awaitable[object]]] = {
        "squeue": lambda scheduler: scheduler.jobs(""),
        "sacct": lambda scheduler: scheduler.finished_jobs([7]),
        "scontrol": lambda scheduler: scheduler.version(),
        "scancel": lambda scheduler: scheduler.cancel(7),
    }
    with pytest.raises(NoAnswer, match="Unable to contact"):
        commands.ask(questions[program])


def test_a_command_that_hangs_is_killed_at_its_deadline(commands: Commands) -> None:
    pid = commands.folder / "pid"
    commands.put("squeue", f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    commands.scheduler = CommandScheduler(commands.scheduler._prefix, timeout=2)
    start = time.monotonic()
    with pytest.raises(NoAnswer, match="no end after 2 s"):
        commands.jobs()
    assert time.monotonic() - start < 10
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_cancel_passes_the_job_on_and_takes_what_has_ended(commands: Commands) -> None:
    commands.put("scancel", "import sys; open('args', 'w').write(repr(sys.argv[1:]))")
    commands.ask(lambda scheduler: scheduler.cancel(7))
    assert (commands.folder / "args").read_text() == "['7']"
    for words in ("Invalid job id specified", "Job/step already completing or completed"):
        commands.put("scancel", f"import sys; sys.exit('scancel: error: Kill job error on job id 7: {words}')")
        commands.ask(lambda scheduler: scheduler.cancel(7))


def test_cancel_that_slurm_refuses(commands: Commands) -> None:
    commands.put("scancel", "import sys; sys.exit('Kill job error on job id 7: Access/permission denied')")
    with pytest.raises(Refused, match="denied"):
        commands.ask(lambda scheduler: scheduler.cancel(7))


@pytest.mark.parametrize(("value", "hidden"), [("none", set()), ("accounts,jobs,usage", {"accounts", "jobs", "usage"})])
def test_private_data(commands: Commands, value: str, hidden: set[str]) -> None:
    commands.put(
        "scontrol", f"print('Configuration data as of …\\nPrivateData             = {value}\\nProctrackType = x')"
    )
    assert commands.ask(lambda scheduler: scheduler.private_data()) == hidden


@pytest.mark.parametrize(
    ("value", "stores"),
    [("", False), ("JOB_ENV,JOB_SCRIPT", False), ("JOB_COMMENT", True), ("job_env,job_comment", True)],
)
def test_whether_accounting_stores_comments(commands: Commands, value: str, stores: bool) -> None:
    lines = (
        "Configuration data as of …",
        f"AccountingStoreFlags    = {value}",
        "AcctGatherEnergyType    = JOB_COMMENT",
    )
    commands.put("scontrol", f"print({chr(10).join(lines)!r})")
    assert commands.ask(lambda scheduler: scheduler.stores_comments()) is stores


def test_version_is_the_controller_s(commands: Commands) -> None:
    commands.put("scontrol", "print('Configuration data as of …\\nSLURM_VERSION           = 26.05.5\\n')")
    assert commands.ask(lambda scheduler: scheduler.version()) == "26.05.5"
    commands.put("scontrol", "print('Slurmctld(primary) at login is UP')")
    with pytest.raises(NoAnswer, match="SLURM_VERSION"):
        commands.ask(lambda scheduler: scheduler.version())


def test_the_user_s_own_settings_do_not_change_the_question(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_STATES", "SQUEUE_USERS", "SLURM_CLUSTERS", "SQUEUE_FORMAT", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "/some/slurm.conf")
    commands.put("squeue", "import os; open('env', 'w').write('\\n'.join(os.environ))")
    assert commands.jobs() == []
    seen = {name for name in (commands.folder / "env").read_text().split() if name.startswith(("S", "LC"))}
    assert seen == {"SQUEUE_FORMAT2", "SLURM_TIME_FORMAT", "SLURM_CONF", "LC_ALL"}
