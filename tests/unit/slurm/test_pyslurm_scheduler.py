"""The process that pyslurm lives in: hanging, dying, babbling. The processes here are stand-ins, but real ones."""

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from slurm.node_state import NodeCondition
from slurm.nodes import Node
from slurm.partitions import Partition
from slurm.pyslurm_scheduler import PyslurmScheduler
from slurm.queue_position import QueuedJob
from slurm.scheduler import NoAnswer, Refused
from slurm.state import JobState
from tests.deadlines import DEADLINE_S
from tests.processes import process_state

# Answers each question by evaluating `reply` on it, having recorded its process id.
WORKER = """
import json, os, sys, time
open("{pids}", "a").write(f"{{os.getpid()}}\\n")
for line in sys.stdin:
    request = json.loads(line)
    print(json.dumps({reply}), flush=True)
"""

JOB = [7, "berth-a", "alice", "RUNNING", "None", "a\nb\u2028\x1b", "c1", 2, 1795330774, 1795330775, None]


class Pyslurm:
    """A scheduler with a worker that gives a chosen answer, and the process ids of all workers so far."""

    def __init__(self, folder: Path) -> None:
        self._pids = folder / "pids"
        self._pids.touch()

    def scheduler(self, reply: str, *, timeout: float = 20) -> PyslurmScheduler:
        code = WORKER.format(pids=self._pids, reply=reply)
        return PyslurmScheduler((sys.executable, "-Ic", code), timeout=timeout)

    def ask(
        self, reply: str, *questions: Callable[[PyslurmScheduler], Awaitable[object]], timeout: float = 20
    ) -> list[Any]:
        """Return the answer to each question, or its exception, of one scheduler."""

        async def answers() -> list[Any]:
            scheduler = self.scheduler(reply, timeout=timeout)
            found: list[Any] = []
            for question in questions:
                try:
                    found.append(await question(scheduler))
                except (NoAnswer, Refused) as error:
                    found.append(error)
            await scheduler.close()
            return found

        return asyncio.run(answers())

    @property
    def pids(self) -> list[int]:
        return [int(line) for line in self._pids.read_text().split()]


@pytest.fixture
def pyslurm(tmp_path: Path) -> Pyslurm:
    return Pyslurm(tmp_path)


async def version(scheduler: PyslurmScheduler) -> object:
    return await scheduler.version()


async def jobs(scheduler: PyslurmScheduler) -> object:
    return await scheduler.jobs("berth-")


def test_one_process_answers_all_questions_and_is_gone_after_close(pyslurm: Pyslurm) -> None:
    assert pyslurm.ask("{'answer': '26.05.5'}", version, version, version) == ["26.05.5"] * 3
    (pid,) = pyslurm.pids
    assert not Path(f"/proc/{pid}").exists()


def test_a_job(pyslurm: Pyslurm) -> None:
    [[job]] = pyslurm.ask(f"{{'answer': {{'jobs': [{JOB!r}], 'queue': []}}}}", jobs)
    assert (job.id, job.state, job.reason, job.comment, job.ends_at) == (
        7,
        JobState.RUNNING,
        "",
        "a\nb\u2028\x1b",
        None,
    )


def test_queue(pyslurm: Pyslurm) -> None:
    queue = [[1, 5, "gpu", "Resources", "alice"], [2, 0, "gpu", "JobHeldUser", "bob"]]
    (found,) = pyslurm.ask(f"{{'answer': {queue}}}", PyslurmScheduler.queue)
    assert found == [QueuedJob(1, 5, "gpu", "Resources", "alice"), QueuedJob(2, 0, "gpu", "JobHeldUser", "bob")]


def test_nodes_are_those_of_the_command_that_the_worker_runs(pyslurm: Pyslurm) -> None:
    reply = "{'answer': f\"NodeName=c1 State=MIXED+DRAIN Comment={request['command'][0]} Reason=new kernel\\n\"}"
    (found,) = pyslurm.ask(reply, PyslurmScheduler.nodes)
    assert found == {"c1": Node("c1", NodeCondition.DRAINING, "new kernel", "MIXED+DRAIN")}
    for broken in ("'NodeName=c1 State=IDLE'", "'NodeName=c1\\n'"):
        (error,) = pyslurm.ask(f"{{'answer': {broken}}}", PyslurmScheduler.nodes)
        assert isinstance(error, NoAnswer)


def test_partitions(pyslurm: Pyslurm) -> None:
    record = {"name": "gpu", "state": "UP", "is_default": True, "is_hidden": False, "is_reserved": False, "nodes": 3}
    names = {"groups": ["ALL"], "accounts": ["a", "b"], "qos": ["ALL"]}
    limits = {"max_time_s": 60, "default_time_s": None, "max_cpus_per_node": None, "max_memory_mib": None}
    (found,) = pyslurm.ask(f"{{'answer': [{record | names | limits!r}]}}", PyslurmScheduler.partitions)
    assert found == {"gpu": Partition("gpu", "UP", is_default=True, accounts=("a", "b"), max_time_s=60, nodes=3)}


def test_an_answer_of_many_megabytes(pyslurm: Pyslurm) -> None:
    (found,) = pyslurm.ask(f"{{'answer': {{'jobs': [{JOB!r}] * 30000, 'queue': []}}}}", jobs)
    assert len(found) == 30000


def test_only_ended_jobs_that_were_asked_for(pyslurm: Pyslurm) -> None:
    records = [
        [number, "berth-a", "alice", state, 0, 9, 1, 2, ""]
        for number, state in [(7, "OUT_OF_MEMORY"), (8, "RUNNING"), (9, "COMPLETED")]
    ]
    (found,) = pyslurm.ask(f"{{'answer': {records!r}}}", lambda scheduler: scheduler.finished_jobs([7, 8]))
    assert list(found) == [7]
    assert pyslurm.ask("1 / 0", lambda scheduler: scheduler.finished_jobs([])) == [{}]


def test_a_hanging_process_is_killed_at_the_deadline_and_the_next_question_gets_a_new_one(pyslurm: Pyslurm) -> None:
    start = time.monotonic()
    first, second = pyslurm.ask("time.sleep(600)", version, version, timeout=2)
    assert time.monotonic() - start < 15
    assert isinstance(first, NoAnswer)
    assert "no answer to version in 2 s" in str(first)
    assert isinstance(second, NoAnswer)
    assert len(pyslurm.pids) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pyslurm.pids)


@pytest.mark.parametrize(
    "reply",
    [
        "os._exit(3)",
        "os.kill(os.getpid(), 11)",
        "sys.stdout.write('{\\'answer') or sys.stdout.flush() or os._exit(0)",
        "print('not JSON')",
        "{'error': 'Unable to contact slurm controller (connect failure)'}",
    ],
)
def test_a_process_that_dies_babbles_or_reports_an_error_is_replaced(pyslurm: Pyslurm, reply: str) -> None:
    is_first = f"len(open({str(pyslurm._pids)!r}).read().split()) == 1"
    first, second = pyslurm.ask(f"({reply}) if {is_first} else {{'answer': '1'}}", version, version)
    assert isinstance(first, NoAnswer)
    assert second == "1"
    assert len(set(pyslurm.pids)) == 2


def test_a_process_that_died_between_two_questions_is_replaced_unnoticed(pyslurm: Pyslurm) -> None:
    async def ask() -> None:
        scheduler = pyslurm.scheduler("{'answer': '1'}")
        assert await scheduler.version() == "1"
        os.kill(pyslurm.pids[0], 9)
        assert scheduler._worker is not None
        await scheduler._worker.wait()
        assert await scheduler.version() == "1"
        await scheduler.close()

    asyncio.run(ask())
    assert len(pyslurm.pids) == 2


def test_a_refusal_keeps_the_process(pyslurm: Pyslurm) -> None:
    reply = "{'refused': 'Access denied'} if request['ask'] == 'cancel' else {'answer': '1'}"
    refusal, answer = pyslurm.ask(reply, lambda scheduler: scheduler.cancel(7), version)
    assert isinstance(refusal, Refused)
    assert answer == "1"
    assert len(pyslurm.pids) == 1


def test_questions_asked_at_once_are_answered_one_after_the_other(pyslurm: Pyslurm) -> None:
    async def ask() -> list[str]:
        scheduler = pyslurm.scheduler("{'answer': request['prefix'] if 'prefix' in request else '1'}")
        answers = await asyncio.gather(*(scheduler.version() for _ in range(20)))
        await scheduler.close()
        return answers

    assert asyncio.run(ask()) == ["1"] * 20
    assert len(pyslurm.pids) == 1


def test_a_question_that_is_given_up_leaves_no_answer_to_the_next_one(pyslurm: Pyslurm) -> None:
    async def ask() -> object:
        scheduler = pyslurm.scheduler("{'answer': time.sleep(600) if request['ask'] == 'cancel' else '1'}")
        given_up = asyncio.create_task(scheduler.cancel(7))
        async with asyncio.timeout(DEADLINE_S):
            while not pyslurm.pids:  # noqa: ASYNC110 - another process writes them
                await asyncio.sleep(0.01)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        answer = await scheduler.version()
        await scheduler.close()
        return answer

    assert asyncio.run(ask()) == "1"


def test_the_worker_says_so_when_there_is_no_pyslurm() -> None:
    async def ask() -> None:
        scheduler = PyslurmScheduler()
        with pytest.raises(NoAnswer, match="pyslurm cannot be imported"):
            await scheduler.version()
        await scheduler.close()

    asyncio.run(ask())


# A pyslurm that prints to standard output, from Python and from C alike.
NOISY = """
import os
print("debug: hello")
os.write(1, b"slurm_load_jobs error\\n")
class PyslurmError(Exception): pass
class slurmctld:
    class Config:
        version = "26.05.5"
        @staticmethod
        def load():
            os.system("echo more noise")
            return slurmctld.Config
"""


def test_what_pyslurm_prints_is_no_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyslurm.py").write_text(NOISY)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from slurm.pyslurm_worker import main; main()"

    async def ask() -> str:
        scheduler = PyslurmScheduler((sys.executable, "-c", code))
        answer = await scheduler.version()
        await scheduler.close()
        return answer

    assert asyncio.run(ask()) == "26.05.5"
    assert "more noise" in capfd.readouterr().err


@pytest.mark.parametrize("iterations", range(6))
def test_a_question_that_is_given_up_while_the_worker_starts_holds_up_nobody(tmp_path: Path, iterations: int) -> None:
    """Cancelled after so many iterations of the event loop; a descendant of the worker keeps its pipes open."""
    pid = tmp_path / "pid"
    scheduler = PyslurmScheduler(("sh", "-c", f"sleep 600 & echo $! >{pid}; wait"), timeout=DEADLINE_S)

    async def ask_and_give_up() -> None:
        task = asyncio.create_task(scheduler.version())
        for _ in range(iterations):
            await asyncio.sleep(0)
            time.sleep(0.02)  # noqa: ASYNC251 - so that the worker is ahead of the event loop
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await scheduler.close()

    asyncio.run(asyncio.wait_for(ask_and_give_up(), 20))
    if pid.exists() and (number := pid.read_text().strip()):
        deadline = time.monotonic() + DEADLINE_S
        while process_state(int(number)) not in "ZX":
            assert time.monotonic() < deadline
            time.sleep(0.01)
