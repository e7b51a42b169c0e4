"""Sessions that outlive their jobs, on a real queue: the time limit, preemption, a node that is lost."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

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


def plug(lab: Lab, node: str, state: str) -> None:
    """Pull a node's plug, or boot it again."""
    command = [sys.executable, "-m", "slurm.lab", "node", "--name", lab.place.name, node, state]
    subprocess.run(command, check=True, timeout=120)
