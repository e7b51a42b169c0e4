"""Connecting to sessions that do not run, with a stock ssh through the gateway, on a real queue."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.lab.conftest import User


def rests(user: User, name: str) -> None:
    """Make a session that has ended long enough ago for connecting to start it."""
    user.ok("start", name, "--profile", "base")
    job = user.show(name)["job_id"]
    user.site.lab.sh(f"scancel --batch --signal=TERM {job}", user=user.name)  # it ends by itself, and well
    user.wait(name, "stopped")


def test_connecting_starts_a_stopped_session_once(alice: User, name: str) -> None:
    rests(alice, name)
    with ThreadPoolExecutor(12) as pool:
        ends = list(pool.map(lambda _: alice.laptop.ssh(name, "echo in"), range(12)))
    assert [each.stdout for each in ends] == [b"in\n"] * 12
    assert [each.returncode for each in ends] == [0] * 12
    assert alice.show(name)["generation"] == "2.0"
    assert len(alice.jobs(alice.show(name)["id"])) == 1
    assert "by connecting" in alice.ok("events", name)


def test_a_client_that_gives_up_finds_it_ready_the_next_time(alice: User, name: str) -> None:
    """As an IDE does: it waits for three seconds, while the job is held in the queue."""
    rests(alice, name)
    alice.ok("start", name, "--no-wait", "--begin=now+1hour")
    job = alice.wait(name, "queued")["job_id"]
    gave_up = alice.laptop.ssh(name, "true", options=["-o", "ConnectTimeout=3"])
    assert gave_up.returncode == 255
    assert b"timed out" in gave_up.stderr.lower()
    told = alice.laptop.ssh(name, "true")
    assert told.returncode == 255
    assert f"berth: {name} is queued: BeginTime".encode() in told.stderr, "before the login"
    assert f"{name} is queued: BeginTime (its start time has not come)".encode() in told.stderr
    assert b"connect again shortly" in told.stderr
    assert alice.show(name)["job_id"] == job
    alice.site.lab.sh(f"scontrol update JobId={job} StartTime=now", user=alice.name)
    assert alice.laptop.ok(name, "echo in") == b"in\n"
    assert alice.show(name)["job_id"] == job


def test_on_the_login_node_it_is_waited_for_and_told(alice: User, name: str) -> None:
    rests(alice, name)
    alice.ok("start", name, "--no-wait", "--begin=now+1hour")
    job = alice.wait(name, "queued")["job_id"]
    lab = alice.site.lab
    ssh = lab.popen(["berth", "exec", name, "--", "echo", "in"], user=alice.name)
    assert ssh.stderr is not None
    assert b"is queued: BeginTime" in ssh.stderr.readline()
    lab.sh(f"scontrol update JobId={job} StartTime=now", user=alice.name)
    out, _ = ssh.communicate(timeout=60)
    assert out == b"in\n"


def test_what_was_just_stopped_stays_stopped_and_sessions_may_refuse_to_start(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.ok("stop", name)
    refused = alice.laptop.ssh(name, "true")
    assert refused.returncode == 255
    assert f"{name} is stopped".encode() in refused.stderr
    assert f"`berth start {name}` starts it; connecting does it in".encode() in refused.stderr
    alice.ok("set", name, "--start-on-connect", "no", "--connect-wait", "10m")
    assert "connecting does not start it, connections wait for 10 min" in alice.ok("show", name)
    refused = alice.laptop.ssh(name, "true")
    assert f"{name} is stopped; `berth start {name}` starts it".encode() in refused.stderr
    assert alice.show(name)["state"] == "stopped"


def test_without_the_controller_running_sessions_are_reached_and_connections_live(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    assert alice.laptop.ok(name, "echo in") == b"in\n"
    site = alice.site
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        lives = pool.submit(alice.laptop.ssh, name, "sleep 8; echo lived", seconds=60)
        wait_for(lambda: alice.laptop.ssh(name, "pgrep -x sleep").returncode == 0, what="the connection to stand")
        site.kill("broker")
        try:
            while time.monotonic() - began < 6:
                done = alice.laptop.ssh(name, "echo in")
                assert done.stdout == b"in\n", done.stderr
            assert b"the controller does not answer" in done.stderr
            assert lives.result().stdout == b"lived\n"
        finally:
            site.start("broker")
            wait_for(site.api_answers, what="the controller to answer again")
    assert alice.show(name)["state"] == "ready"
