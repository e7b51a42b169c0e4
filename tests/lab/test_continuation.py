"""Sessions that outlive their jobs, on a real queue: the time limit, preemption, a node that is lost."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.lab.conftest import User
    from tests.lab_cluster import Lab


def carried_on(user: User, name: str, before: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The session, once another job than in `before` has made it ready."""

    def ready(view: dict[str, Any]) -> bool:
        return bool(view["state"] == "ready" and view["job_id"] != before["job_id"])

    return user.until(name, ready, what=f"{name} to be carried on", seconds=seconds)


def test_at_its_time_limit_a_session_is_warned_and_goes_on_three_times(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--time=1")
    alice.ok("set", name, "--continue", "always")
    view = alice.show(name)
    host_key = view["host_key_fingerprint"]
    for turn in range(3):
        assert alice.laptop.ssh(name, f"echo {turn} >>turns; sync").returncode == 0
        with ThreadPoolExecutor(1) as pool:
            terminal = pool.submit(alice.laptop.ssh, name, "sleep 300", options=["-tt"], seconds=180)
            view = carried_on(alice, name, view, 150)
            said = terminal.result()
        assert f"berth: {name}: the time limit of job".encode() in said.stdout
        assert b"The session goes on in another job at once: connect again then." in said.stdout
        assert view["host_key_fingerprint"] == host_key
        assert view["generation"] == f"{turn + 2}.0"
    assert alice.laptop.ssh(name, "cat turns").stdout == b"0\n1\n2\n"
    assert alice.ok("history", name).count("COMPLETED") == 3
    assert alice.ok("events", name).count("carries it on") == 3


def test_preempted_and_not_requeued_it_goes_on_in_another_job(alice: User, name: str) -> None:
    lab = alice.site.lab
    alice.ok("start", name, "--profile", "base", "--exclusive", "--exclude=c1,c2")
    view = alice.show(name)
    assert alice.laptop.ssh(name, "echo kept >file; sync").returncode == 0
    lab.sh(f"scontrol update JobId={view['job_id']} Requeue=0")
    rival = lab.sh("sbatch --parsable -p urgent --exclusive -w c3 -t 5 --wrap 'sleep 300'", user="bob").strip()
    try:
        queued = alice.until(
            name, lambda now: now["state"] == "queued" and now["job_id"] != view["job_id"], what="the next job to wait"
        )
        assert queued["generation"] == "2.0"
        assert "has ended (PREEMPTED" in alice.ok("events", name)
    finally:
        lab.sh(f"scancel {rival}")
    assert carried_on(alice, name, view, 90)["host_key_fingerprint"] == view["host_key_fingerprint"]
    assert alice.laptop.ssh(name, "cat file").stdout == b"kept\n"
    assert "PREEMPTED" in alice.ok("history", name)


def test_preempted_and_requeued_it_is_back_before_slurm_would_have_it(alice: User, name: str) -> None:
    lab = alice.site.lab
    alice.ok("start", name, "--profile", "base", "--exclusive", "--exclude=c1,c2")
    view = alice.show(name)
    assert alice.laptop.ssh(name, "echo kept >file; sync").returncode == 0
    rival = lab.sh("sbatch --parsable -p urgent --exclusive -w c3 -t 5 --wrap 'sleep 300'", user="bob").strip()
    try:
        alice.until(name, lambda now: bool(now["state"] == "queued"), what="the job to be requeued")
    finally:
        lab.sh(f"scancel {rival}")
    now = alice.until(name, lambda now: bool(now["state"] == "ready"), what="the same job to be ready", seconds=90)
    assert (now["job_id"], now["generation"]) == (view["job_id"], "1.1")
    assert alice.laptop.ssh(name, "cat file").stdout == b"kept\n"


def test_extended_it_is_not_ended_at_its_first_limit(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--time=1")
    alice.ok("set", name, "--continue", "never")
    view = alice.show(name)
    alice.ok("extend", name, "1m")
    assert alice.show(name)["ends_at"] == view["ends_at"] + 60
    refused = alice.berth("extend", name, "2d")
    assert refused.returncode == 4
    assert b"no job is extended to more than 1 d in all" in refused.stderr
    assert b"then it stops, and keeps its files" in refused.stderr
    held = alice.laptop.ssh(name, "sleep 75; echo held", seconds=120)
    assert held.stdout == b"held\n"
    alice.wait(name, "stopped", seconds=150)
    assert "the job's time was up" in alice.ok("show", name)


def test_with_its_node_lost_it_goes_on_elsewhere(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--exclude=c1")
    view = alice.show(name)
    node = view["endpoint"]["node"]
    assert alice.laptop.ssh(name, "echo kept >file; sync").returncode == 0
    lab = alice.site.lab
    lab.sh(f"scontrol update JobId={view['job_id']} Requeue=0")
    plug(lab, node, "down")
    try:
        now = carried_on(alice, name, view, 150)
        assert now["endpoint"]["node"] not in {node, "c1"}
        assert alice.laptop.ssh(name, "cat file").stdout == b"kept\n"
        assert "NODE_FAIL" in alice.ok("history", name)
    finally:
        plug(lab, node, "up")
        wait_for(lambda: serves(lab, node), what=f"{node} to serve again")


def test_with_slurmd_dead_the_next_job_waits_for_the_first_which_still_lives(alice: User, name: str) -> None:
    """Slurm calls the node down and the job lost, though its processes go on: two must not have the volumes open."""
    alice.ok("start", name, "--profile", "base", "--exclude=c1")
    view = alice.show(name)
    lab, node = alice.site.lab, view["endpoint"]["node"]
    lab.sh(f"scontrol update JobId={view['job_id']} Requeue=0")
    log = f"/shared/berth/alice/sessions/{view['id']}/run/job.log"
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(alice.laptop.ssh, name, "echo first >file; sleep 300", seconds=300)
        with lab.without("slurmd", node=node):
            alice.until(name, lambda now: bool(now["generation"] == "2.0"), what="the job to be lost", seconds=120)
            alice.wait(name, "starting")
            told = "another job has the volumes of this session open; it gets 300 s to end"
            wait_for(lambda: told in lab.sh(f"cat {log}"), what="the next job to wait")
            assert alice.show(name)["state"] == "starting"
            assert not first.done(), "the first job's processes are still there"
        wait_for(lambda: serves(lab, node), what=f"{node} to serve again")
        now = carried_on(alice, name, view, 120)
        assert first.result().returncode == 255
    assert now["endpoint"]["node"] not in {node, "c1"}
    assert alice.laptop.ssh(name, "cat file").stdout == b"first\n"


def serves(lab: Lab, node: str) -> bool:
    """Whether Slurm gives jobs to the node."""
    return lab.sh(f"sinfo -h -p gpu -n {node} -o %t").strip() in {"idle", "mix", "alloc"}


def plug(lab: Lab, node: str, state: str) -> None:
    """Pull a node's plug, or boot it again."""
    command = [sys.executable, "-m", "slurm.lab", "node", "--name", lab.place.name, node, state]
    subprocess.run(command, check=True, timeout=120)
