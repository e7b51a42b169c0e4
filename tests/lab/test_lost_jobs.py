"""Jobs that end unexpectedly, on a real queue: preemption, a node without power, a node out of sight."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.lab.test_explain import told
from tests.lab.test_greeting import typed
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User
    from tests.lab_cluster import Lab

pytestmark = pytest.mark.waits


def serves(lab: Lab, node: str) -> bool:
    """Whether Slurm gives jobs to the node."""
    return lab.sh(f"sinfo -h -p gpu -n {node} -o %t").strip() in {"idle", "mix", "alloc"}


def plug(lab: Lab, node: str, state: str) -> None:
    """Pull a node's plug, or boot it again."""
    command = [sys.executable, "-m", "slurm.lab", "node", "--name", lab.place.name, node, state]
    subprocess.run(command, check=True, timeout=120)


def test_preempted_and_not_requeued_it_goes_on_in_another_job(alice: User, name: str) -> None:
    lab = alice.site.lab
    alice.ok("start", name, "--profile", "base", "--exclusive", "--exclude=c1,c2")
    view = alice.show(name)
    alice.laptop.ok(name, "echo kept >file; sync")
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
    assert alice.carried_on(name, view, 90)["host_key_fingerprint"] == view["host_key_fingerprint"]
    assert alice.laptop.ok(name, "cat file") == b"kept\n"
    assert "PREEMPTED" in alice.ok("history", name)


def test_preempted_and_requeued_it_is_back_before_slurm_would_have_it(alice: User, name: str) -> None:
    lab = alice.site.lab
    alice.ok("start", name, "--profile", "base", "--exclusive", "--exclude=c1,c2")
    view = alice.show(name)
    alice.laptop.ok(name, "echo kept >file; sync")
    rival = lab.sh("sbatch --parsable -p urgent --exclusive -w c3 -t 5 --wrap 'sleep 300'", user="bob").strip()
    try:
        alice.until(name, lambda now: bool(now["state"] == "queued"), what="the job to be requeued")
    finally:
        lab.sh(f"scancel {rival}")
    now = alice.until(name, lambda now: bool(now["state"] == "ready"), what="the same job to be ready", seconds=90)
    assert (now["job_id"], now["generation"]) == (view["job_id"], "1.1")
    assert alice.laptop.ok(name, "cat file") == b"kept\n"


def test_drain_is_named_and_then_the_loss_of_the_node_that_requeues_the_job(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--exclude=c1")
    view = alice.show(name)
    lab, node = alice.site.lab, view["endpoint"]["node"]
    lab.sh(f"scontrol update NodeName={node} State=DRAIN Reason='new kernel'")
    try:
        alice.until(name, lambda now: bool(now["node_condition"] == "draining"), what="the drain", seconds=60)
        assert f"node {node} takes no new jobs (new kernel); the job continues until " in told(alice, name)["state"]
        assert f"node {node} takes no new jobs (new kernel)" in alice.ok("events", name)
        assert f"notice    node {node} takes no new jobs (new kernel)" in typed(alice, name, "exit\n")
    finally:
        lab.sh(f"scontrol update NodeName={node} State=RESUME")
    plug(lab, node, "down")
    try:
        alice.until(name, lambda now: bool(now["generation"] == "1.1"), what="the requeue", seconds=150)
        assert f": node {node} failed; files are kept" in told(alice, name)["before"]
        alice.wait(name, "ready", seconds=90)
        assert f"(requeued 1x: node {node} failed)" in alice.ok("history", name)
        assert f"node {node} failed" in alice.ok("events", name)
        assert re.search(rf"before +interrupted .*: node {node} failed", typed(alice, name, "exit\n"))
    finally:
        plug(lab, node, "up")
        wait_for(lambda: serves(lab, node), what=f"{node} to serve again")


def test_with_its_node_lost_it_goes_on_elsewhere(alice: User, new_name: Callable[[str], str]) -> None:
    """Or says the reason, if it must not continue."""
    name, ends = new_name("goes-on"), new_name("ends")
    alice.ok("start", name, "--profile", "base", "--exclude=c1")
    view = alice.show(name)
    node = view["endpoint"]["node"]
    alice.laptop.ok(name, "echo kept >file; sync")
    lab = alice.site.lab
    alice.ok("start", ends, "--profile", "base", f"--nodelist={node}", "--mem=200M")
    alice.ok("set", ends, "--continue", "never")
    for job in (view["job_id"], alice.show(ends)["job_id"]):
        lab.sh(f"scontrol update JobId={job} Requeue=0")
    plug(lab, node, "down")
    try:
        now = alice.carried_on(name, view, 150)
        assert now["endpoint"]["node"] not in {node, "c1"}
        assert alice.laptop.ok(name, "cat file") == b"kept\n"
        assert "NODE_FAIL" in alice.ok("history", name)
        alice.wait(ends, "failed", seconds=60)
        assert told(alice, ends)["state"].startswith(f"failed: node {node} failed; start the session again")
        assert "on another node if possible" in told(alice, ends)["do"]
        assert f"NODE_FAIL (node {node} failed" in alice.ok("history", ends)
        assert f"node {node} failed" in alice.ok("show", ends)
        assert f": node {node} failed; files are kept" in told(alice, name)["before"]
    finally:
        plug(lab, node, "up")
        wait_for(lambda: serves(lab, node), what=f"{node} to serve again")


@pytest.mark.soak
def test_with_slurmd_dead_the_next_job_waits_for_the_first_which_still_lives(alice: User, name: str) -> None:
    """Slurm calls the node down and the job lost, but its processes run: two must not have the volumes open."""
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
            told = "another job has the volumes of this session open; waiting up to 300 s for its lock"
            wait_for(lambda: told in lab.sh(f"cat {log}"), what="the next job to wait")
            assert alice.show(name)["state"] == "starting"
            assert not first.done(), "the first job's processes are still there"
        wait_for(lambda: serves(lab, node), what=f"{node} to serve again")
        now = alice.carried_on(name, view, 120)
        assert first.result().returncode == 255
    assert now["endpoint"]["node"] not in {node, "c1"}
    assert alice.laptop.ok(name, "cat file") == b"first\n"
