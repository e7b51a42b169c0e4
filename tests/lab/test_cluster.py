"""`berth cluster` shows the numbers of Slurm, asks Slurm rarely, and requests of the sizes that it names start."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

pytestmark = pytest.mark.waits
INTERVAL_S = 30
"""The default of slurm.cluster_interval, which the lab's controller has."""
LATER_S = 2 * INTERVAL_S
FILLER = ["--gres=gpu:1", "--cpus-per-task=3", "--mem=4000"]
"""A job for each node: it leaves one GPU, five CPUs and 12,000 MiB."""


def sbatch(user: User, *options: str) -> int:
    """Submit a job that lasts; its id."""
    words = ["sbatch", "--parsable", "--chdir=/tmp", "--output=/dev/null", "--time=10", *options, "--wrap=sleep 600"]
    done = user.site.lab.run(words, user=user.name)
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout)


def state_of(lab: Lab, job_id: int) -> str:
    """The job's state and the reason of its wait."""
    return lab.sh(f"squeue -h -j {job_id} -o '%T %r'")


@pytest.fixture
def filled(bob: User) -> Iterator[list[int]]:
    """A job of bob's on each node."""
    lab = bob.site.lab
    wait_for(lambda: not lab.sh("squeue -h"), what="an empty queue", seconds=60)
    jobs = [sbatch(bob, *FILLER, f"--nodelist=c{number}", "--job-name=secret") for number in (1, 2, 3)]
    wait_for(lambda: all(state_of(lab, job).startswith("RUNNING") for job in jobs), what="bob's jobs to run")
    yield jobs
    lab.sh("scancel -u alice; scancel -u bob")
    wait_for(lambda: not lab.sh("squeue -h"), what="the jobs to end", seconds=60)


def cluster(user: User) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(user.ok("cluster", "--json"))
    return found


def later(user: User, moment: float) -> dict[str, Any]:
    """The cluster as it was after that moment."""
    wait_for(lambda: cluster(user)["as_of"] > moment, what="a newer answer", seconds=LATER_S)
    return cluster(user)


def requests_to_slurm(lab: Lab) -> dict[str, int]:
    """Return the number of requests of each kind that slurmctld has counted."""
    kinds = "REQUEST_NODE_INFO|REQUEST_PARTITION_INFO|REQUEST_JOB_INFO\\w*"
    return {kind: int(count) for kind, count in re.findall(rf"({kinds})\s+\(\s*\d+\) count:(\d+)", lab.sh("sdiag"))}


def test_numbers_are_those_of_slurm(alice: User, filled: list[int]) -> None:
    lab = alice.site.lab
    held = sbatch(alice, "--hold", "--job-name=other-secret")
    view = later(alice, time.time())
    for node in view["nodes"]:
        shown = dict(
            re.findall(r"(\w+)=(\S*)", lab.sh(f"scontrol -o -d show node {node['name']}").partition(" OS=")[0])
        )
        shown |= dict(re.findall(r"(RealMemory|AllocMem|State)=(\S*)", lab.sh(f"scontrol -o show node {node['name']}")))
        assert (node["cpus_used"], node["cpus"]) == (int(shown["CPUAlloc"]), int(shown["CPUTot"])) == (3, 8)
        assert (node["memory_used_mib"], node["memory_mib"]) == (int(shown["AllocMem"]), int(shown["RealMemory"]))
        assert node["state"] == shown["State"] == "MIXED"
        used = {gres["name"]: gres["used"] for gres in node["gres"]}
        assert used == {"gpu": 1, "shard": 0}
        assert "gpu:intel:1(" in shown["GresUsed"]
    assert [node["name"] for node in view["nodes"]] == lab.sh("sinfo -h -N -p gpu -o %n").split()
    parts = {part["name"]: part for part in view["partitions"]}
    assert parts.keys() == {"gpu", "urgent"}
    assert parts["gpu"]["max_time_s"] == 7 * 86400
    assert parts["gpu"]["usage"]["cpus_used"] == int(lab.sh("sinfo -h -p gpu -o %C").split("/")[0]) == 9
    assert parts["gpu"]["pending"] == len(lab.sh("squeue -h -t PD -p gpu -o %i").split()) == 1
    assert (view["queue"]["pending"], view["queue"]["startable"]) == (1, 0)
    assert "secret" not in json.dumps(view)
    assert filled
    assert held


def test_request_of_the_largest_size_starts_and_a_larger_one_waits(alice: User, filled: list[int]) -> None:
    assert filled
    lab = alice.site.lab
    largest = later(alice, time.time())["largest"]
    assert largest == {"gpus": 1, "shards": 4, "cpus": 5, "memory_mib": 12000}
    small = ["--mem=10", "--nodes=1"]
    for fits, larger in (
        ([f"--gres=gpu:{largest['gpus']}", *small], [f"--gres=gpu:{largest['gpus'] + 1}", *small]),
        ([f"--gres=shard:{largest['shards']}", *small], [f"--gres=shard:{largest['shards'] + 1}", *small]),
        ([f"--cpus-per-task={largest['cpus']}", *small], [f"--cpus-per-task={largest['cpus'] + 1}", *small]),
        ([f"--mem={largest['memory_mib']}"], [f"--mem={largest['memory_mib'] + 1}"]),
    ):
        waits = sbatch(alice, *larger)
        wait_for(lambda job=waits: state_of(lab, job) == "PENDING Resources", what=f"{larger} to wait")  # type: ignore[misc]
        lab.sh(f"scancel {waits}")
        starts = sbatch(alice, *fits)
        wait_for(lambda job=starts: state_of(lab, job).startswith("RUNNING"), what=f"{fits} to start")  # type: ignore[misc]
        lab.sh(f"scancel {starts}")
        wait_for(lambda job=starts: not state_of(lab, job), what="the job to end", seconds=60)  # type: ignore[misc]


def test_slurm_is_asked_once_for_all_who_look(alice: User, bob: User) -> None:
    lab = alice.site.lab
    view = later(alice, time.time())
    before = requests_to_slurm(lab)
    for user in (alice, bob) * 10:
        again = json.loads(user.request("/v1/cluster")[1])
        assert again["as_of"] == view["as_of"]
    assert time.time() < view["as_of"] + INTERVAL_S, "the calls took longer than an answer serves"
    after = requests_to_slurm(lab)
    for kind in ("REQUEST_NODE_INFO", "REQUEST_PARTITION_INFO"):
        assert after[kind] == before[kind], kind


def test_last_answer_is_shown_while_slurmctld_hangs(alice: User) -> None:
    lab = alice.site.lab
    view = later(alice, time.time())
    with lab.paused("slurmctld"):
        wait_for(lambda: bool(cluster(alice)["stale"]), what="the answer to be old", seconds=LATER_S)
        began = time.monotonic()
        done = alice.berth("cluster")
        assert time.monotonic() - began < 10
        assert done.returncode == 0, done.stderr
        assert "Slurm does not answer." in done.stderr.decode()
        assert cluster(alice)["as_of"] == view["as_of"]
    assert not later(alice, time.time())["stale"]


def test_session_that_waits_sees_the_jobs_ahead(alice: User, bob: User, name: str) -> None:
    lab = alice.site.lab
    first, second = (sbatch(bob, "--exclusive", "--nodes=3") for _ in range(2))
    try:
        wait_for(lambda: state_of(lab, first).startswith("RUNNING"), what="the first job to run", seconds=60)
        alice.ok("start", name, "--profile", "base", "--no-wait")
        alice.wait(name, "queued")
        view = later(alice, time.time())
        (waiting,) = view["queue"]["ahead_of"]
        assert (waiting["session"], waiting["ahead"], waiting["partitions"]) == (name, 1, ["gpu"])
        assert view["largest"] == {"gpus": 0, "shards": 0, "cpus": 0, "memory_mib": 0}
        other = bob.request("/v1/cluster")[1]
        assert name not in other
        assert json.loads(other)["queue"]["jobs"][0]["job_id"] == second
        assert f"{name}, job {waiting['job_id']}: 1 job ahead" in alice.ok("cluster")
    finally:
        lab.sh("scancel -u alice; scancel -u bob")
        wait_for(lambda: not lab.sh("squeue -h"), what="the jobs to end", seconds=60)
    alice.wait(name, "stopped", "failed")
    alice.ok("delete", name, "--yes", "--purge")
