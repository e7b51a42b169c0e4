"""slurmctld stopped or dead at each point of a session's life: one job, none lost, and no false answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.lab.conftest import User

pytestmark = pytest.mark.waits


def _one_job(user: User, name: str) -> None:
    """The session becomes ready, and no other job was ever queued for it, not even one that was cancelled since."""
    view = user.wait(name, "ready", seconds=90)
    assert user.jobs(view["id"]) == [str(view["job_id"])]
    assert user.every_job(view["id"]) == [str(view["job_id"])]


def test_a_submission_that_timed_out_but_was_queued_is_found_and_not_repeated(alice: User, name: str) -> None:
    with alice.site.lab.paused("slurmctld"):
        alice.berth("start", name, "--profile", "base", "--no-wait", seconds=60)
        view = alice.show(name)
        assert view["state"] == "submitting"
        alice.until(name, lambda view: "not confirmed" in view["reason"], what="sbatch to be given up")
    _one_job(alice, name)


def test_a_submission_to_a_dead_slurmctld_is_made_once_it_is_back(alice: User, name: str) -> None:
    with alice.site.lab.without("slurmctld"):
        alice.berth("start", name, "--profile", "base", "--no-wait", seconds=60)
        assert alice.show(name)["state"] == "submitting"
    _one_job(alice, name)


def test_a_pause_while_the_job_starts_delays_it_only(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--no-wait")
    with alice.site.lab.paused("slurmctld"):
        wait_for(
            lambda: alice.show(name)["stale_since"] is not None, what="stale data to be shown as stale", seconds=60
        )
        assert alice.show(name)["state"] in {"queued", "starting", "ready"}
    _one_job(alice, name)


def test_a_stop_while_slurmctld_is_away_happens_when_it_is_back(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    session_id = alice.show(name)["id"]
    with alice.site.lab.paused("slurmctld"):
        assert alice.laptop.ok(name, "echo still here") == b"still here\n"
        alice.ok("stop", name, "--no-wait")
        assert alice.show(name)["state"] == "stopping"
    alice.wait(name, "stopped", seconds=90)
    assert alice.jobs(session_id) == []


def test_a_stop_during_an_unclear_submission_leaves_no_orphan(alice: User, name: str) -> None:
    with alice.site.lab.paused("slurmctld"):
        alice.berth("start", name, "--profile", "base", "--no-wait", seconds=60)
        alice.ok("stop", name, "--no-wait")
        session_id = alice.show(name)["id"]
    alice.wait(name, "stopped", seconds=90)
    wait_for(lambda: alice.jobs(session_id) == [], what="the late job to be cancelled")
    assert len(alice.every_job(session_id)) <= 1


@pytest.mark.parametrize("state", ["paused", "without"])
def test_running_sessions_stay_ready_and_reachable(alice: User, name: str, state: str) -> None:
    alice.ok("start", name, "--profile", "base")
    before = alice.show(name)
    lab = alice.site.lab
    lab.wait_until_saved(before["endpoint"]["fingerprint"])
    with lab.paused("slurmctld") if state == "paused" else lab.without("slurmctld"):
        wait_for(
            lambda: alice.show(name)["stale_since"] is not None, what="stale data to be shown as stale", seconds=60
        )
        assert alice.show(name)["state"] == "ready"
        alice.laptop.ok(name, "true")
    wait_for(lambda: alice.show(name)["stale_since"] is None, what="fresh data", seconds=60)
    after = alice.show(name)
    assert (after["state"], after["job_id"]) == ("ready", before["job_id"])


def test_a_job_that_carries_a_sessions_name_but_is_not_its_job_is_cancelled(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    view = alice.show(name)
    carrying = f"--job-name=berth-{view['id']} --comment=berth:{view['id']}:1 --dependency=singleton"
    stray = alice.site.lab.sh(f"sbatch --parsable {carrying} --wrap 'sleep 600'", user="alice")
    alice.berth("start", name)
    wait_for(lambda: alice.jobs(view["id"]) == [str(view["job_id"])], what="the stray to be cancelled", seconds=40)
    assert alice.every_job(view["id"]) == [str(view["job_id"]), stray]
    assert alice.show(name)["state"] == "ready"


def test_another_users_job_of_that_name_is_nobodys_business(alice: User, bob: User, name: str) -> None:
    """Bob may name a job as he likes and write what he likes into its comment: it never becomes alice's endpoint."""
    alice.ok("start", name, "--profile", "base", "--no-wait", "--begin=now+1hour")
    view = alice.wait(name, "queued")
    fingerprint = "SHA256:" + "a" * 43
    job = bob.site.lab.sh(
        f"sbatch --parsable --job-name=berth-{view['id']} --comment=berth:{view['id']}:1:0:c1:2022:{fingerprint} "
        "--wrap 'sleep 600'",
        user="bob",
    )
    try:
        wait_for(lambda: bob.site.lab.sh(f"squeue -h -j {job} -o %T") == "RUNNING", what="bob's job to run")
        revision = alice.show(name)["revision"]
        alice.ok("start", name, "--no-wait")
        after = alice.show(name)
        assert (after["state"], after["job_id"], after["revision"]) == ("queued", view["job_id"], revision)
        assert bob.site.lab.sh(f"squeue -h -j {job} -o %T") == "RUNNING"
    finally:
        bob.site.lab.sh(f"scancel {job}", user="bob")


def test_many_starts_at_once_make_one_job(alice: User, name: str) -> None:
    barrier = threading.Barrier(4)

    def start() -> int:
        barrier.wait()
        return alice.berth("start", name, "--profile", "base").returncode

    with ThreadPoolExecutor(4) as pool:
        codes = [future.result() for future in [pool.submit(start) for _ in range(4)]]
    assert 0 in codes
    assert set(codes) <= {0, 5}
    _one_job(alice, name)
