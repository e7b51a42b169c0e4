"""Sessions that outlive their jobs, on a real queue: the time limit. test_lost_jobs.py has what nobody foresees."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.conftest import User


def test_at_its_time_limit_a_session_is_warned_and_goes_on_three_times(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--time=1")
    alice.ok("set", name, "--continue", "always")
    view = alice.show(name)
    host_key = view["host_key_fingerprint"]
    for turn in range(3):
        assert alice.laptop.ssh(name, f"echo {turn} >>turns; sync").returncode == 0
        with ThreadPoolExecutor(1) as pool:
            terminal = pool.submit(alice.laptop.ssh, name, "sleep 300", options=["-tt"], seconds=180)
            view = alice.carried_on(name, view, 150)
            said = terminal.result()
        assert f"berth: {name}: the time limit of job".encode() in said.stdout
        assert b"The session goes on in another job at once: connect again then." in said.stdout
        assert view["host_key_fingerprint"] == host_key
        assert view["generation"] == f"{turn + 2}.0"
    assert alice.laptop.ssh(name, "cat turns").stdout == b"0\n1\n2\n"
    assert alice.ok("history", name).count("COMPLETED") == 3
    assert alice.ok("events", name).count("carries it on") == 3


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
