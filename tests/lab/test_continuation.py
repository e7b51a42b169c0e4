"""Sessions that outlive their jobs, on a real queue: the time limit. test_lost_jobs.py has unexpected ends."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import ExitCode
from tests.lab.kept import as_json
from tests.lab.test_explain import told
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.lab.conftest import User

pytestmark = pytest.mark.waits


def test_at_its_time_limit_a_session_is_warned_and_goes_on_three_times(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--time=1")
    alice.ok("set", name, "--continue", "always")
    view = alice.show(name)
    host_key = view["host_key_fingerprint"]
    for turn in range(3):
        alice.laptop.ok(name, f"echo {turn} >>turns; sync")
        with ThreadPoolExecutor(1) as pool:
            terminal = pool.submit(alice.laptop.ssh, name, "sleep 300", options=["-tt"], seconds=180)
            view = alice.carried_on(name, view, 150)
            said = terminal.result()
        assert re.search(f"berth: {name}: job [0-9]+ reaches its time limit at ".encode(), said.stdout)
        assert b"The session then continues in another job: connect again." in said.stdout
        assert view["host_key_fingerprint"] == host_key
        assert view["generation"] == f"{turn + 2}.0"
    assert alice.laptop.ok(name, "cat turns") == b"0\n1\n2\n"
    assert alice.ok("history", name).count("COMPLETED") == 3
    assert alice.ok("events", name).count("continues the session") == 3
    made = json.loads(alice.ok("snapshots", name, "--json"))["snapshots"]
    assert [(each["reason"], each["consistency"], each["automatic"]) for each in made] == [
        ("when a job ended", "stopped", True)
    ] * 3
    alice.ok("rollback", name, "2", "--yes", seconds=120)
    alice.wait(name, "ready", seconds=60)
    assert alice.laptop.ok(name, "cat turns") == b"0\n1\n", "as the second job has left it"


def test_extended_it_is_not_ended_at_its_first_limit(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--time=1")
    alice.ok("set", name, "--continue", "never")
    view = alice.show(name)
    alice.ok("extend", name, "1m")
    assert alice.show(name)["ends_at"] == view["ends_at"] + 60
    refused = alice.berth("extend", name, "2d")
    assert refused.returncode == 4
    assert b"this site extends no job beyond 1 d in total" in refused.stderr
    assert b"then the session stops and keeps its files" in refused.stderr
    held = alice.laptop.ssh(name, "sleep 75; echo held", seconds=120)
    assert held.stdout == b"held\n"
    alice.wait(name, "stopped", seconds=150)
    assert "the job reached its time limit" in alice.ok("show", name)
    assert (
        told(alice, name)["state"] == f"stopped: the job reached its time limit; `berth start {name}` starts it again"
    )
    assert "the job reached its time limit" in alice.ok("history", name)


def test_it_gives_its_gpu_back_and_takes_one_again(alice: User, name: str) -> None:
    """In other jobs under the same name, host key and files; what Slurm refuses changes nothing."""
    alice.ok("start", name, "--profile", "base", "--gres=gpu:intel:1", "--mem=200M")
    view = alice.show(name)
    assert alice.laptop.ok(name, "echo kept >file; sync; echo $SLURM_JOB_GPUS") != b"\n"
    expect_starts(alice, name, view)
    refused = alice.berth("resize", name, "--gres=gpu:nothing:1")
    assert refused.returncode == ExitCode.REFUSED
    assert (alice.show(name)["state"], alice.show(name)["job_id"]) == ("ready", view["job_id"])
    alice.ok("resize", name, "--gres=none", seconds=90)
    without = alice.show(name)
    assert (without["state"], without["generation"]) == ("ready", "3.0")
    assert without["host_key_fingerprint"] == view["host_key_fingerprint"]
    assert alice.laptop.ok(name, "cat file; echo ${SLURM_JOB_GPUS-none}") == b"kept\nnone\n"
    assert "CANCELLED (its resources were changed)" in alice.ok("history", name)
    alice.ok("resize", name, "--gres=gpu:intel:1", "--mem=300M", seconds=90)
    record = alice.site.lab.sh(f"scontrol show job {alice.show(name)['job_id']}")
    assert "TresPerNode=gres/gpu:intel:1" in record
    assert "mem=300M" in record
    assert alice.jobs(view["id"]) == [str(alice.show(name)["job_id"])]


def expect_starts(alice: User, name: str, view: dict[str, Any]) -> None:
    """Slurm's estimates of the next job: as the user, at once, after the present job, and never; nothing is changed."""

    def estimate(**request: object) -> Any:  # noqa: ANN401 - None, or the fields of StartEstimate
        status, answer = alice.request(f"/v1/sessions/{name}/check", "-X", "POST", *as_json(request))
        assert status == HTTPStatus.OK, answer
        return json.loads(answer)["estimate"]

    now = float(alice.site.lab.sh("date +%s"))
    assert estimate(restart=True) is None, "a restart keeps the job"
    at_once = estimate(resize={"options": ["--mem=210M"]})
    assert now - 5 <= at_once["at"] <= now + 30, at_once
    submit = "sbatch --parsable --exclusive -N 3 -o /dev/null --wrap 'sleep 60'"
    blocked = alice.site.lab.sh(submit, user="bob").strip()
    whole_node = {"options": ["--exclusive", f"--nodelist={view['endpoint']['node']}"]}
    counted = at_once["waiting"] + 1
    wait_for(lambda: estimate(resize=whole_node)["waiting"] == counted, what="the other job to be counted")
    assert estimate(resize=whole_node)["at"] >= view["ends_at"] - 60, "its own job counts as the one to wait for"
    assert "not available" in estimate(resize={"options": ["--gres=gpu:nothing:1"]})["refusal"]
    alice.site.lab.sh(f"scancel {blocked}")
    assert alice.jobs(view["id"]) == [str(view["job_id"])]


def test_it_is_stopped_at_its_time(alice: User, name: str) -> None:
    """Even if another job runs it by then, and not before."""
    alice.ok("start", name, "--profile", "base", "--mem=200M")
    alice.ok("set", name, "--continue", "never")
    view = alice.show(name)
    alice.ok("stop", name, "--keep-until", "40s")
    assert "as scheduled" in alice.ok("show", name)
    alice.site.lab.sh(f"scontrol requeue {view['job_id']}")
    alice.until(name, lambda now: now["generation"] != view["generation"], what="the next start")
    now = alice.wait(name, "ready", seconds=60)
    assert now["stop_at"] is not None
    stopped = alice.wait(name, "stopped", seconds=60)
    assert stopped["ended_at"] >= now["stop_at"] - 1  # Slurm knows whole seconds
    assert "stopped at the scheduled time" in alice.ok("events", name)
    assert alice.jobs(view["id"]) == []
