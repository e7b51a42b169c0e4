"""The ends of a session's job: out of memory, unused, at its time limit, by a kill. It says why, and comes back."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import wait_until
from tests.vm.conftest import CONTINUED, IDLE, files_are_kept
from tests.vm.person import SECONDS, WAIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm.vm.guest import Guest
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

HOG = "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'"
LIMIT_SECONDS = 1800
"""Limit for steps that wait for minutes by design: the idle time, the time limit."""

KILLED = {
    "sshd": "cat /run/berth/node/sshd.pid",
    "container": "pgrep -u alice -f -o 'Apptainer runtime'",
    "batch script": "pgrep -u alice -f -o 'slurm_script /'",
    "slurmstepd": r"pgrep -u root -f 'slurmstepd: \[{job}\.batch\]'",
}
"""Processes of the job, and how to find them: sshd in the session, the others on the node."""


def comes_back(alice: Person, session: str) -> None:
    alice.ok("start", session, *WAIT)
    assert files_are_kept(alice, session)


@pytest.mark.short("ext4")
def test_memory_overrun_ends_the_session_in_words(alice: Person, kept: str) -> None:
    assert alice.ssh(kept, HOG).returncode != 0
    view = alice.until(kept, lambda view: bool(view["state"] == "failed"), what="the end of the session")
    assert view["outcome"] == "OUT_OF_MEMORY"
    lines = alice.explain(kept)
    assert lines["state"].startswith("failed: out of memory: the session used more than its job requested")
    assert "--mem=" in lines["do"]
    assert "OUT_OF_MEMORY" in alice.ok("history", kept)
    comes_back(alice, kept)


@pytest.fixture
def idle_time(alice: Person, kept: str) -> Iterator[str]:
    alice.ok("set", kept, "--idle", IDLE)
    yield kept
    alice.ok("set", kept, "--idle", "default")


def test_unused_session_is_warned_and_stopped(alice: Person, idle_time: str) -> None:
    alice.until(idle_time, lambda view: view["idle_stop_at"] is not None, what="a warning", seconds=LIMIT_SECONDS)
    view = alice.until(idle_time, lambda view: bool(view["state"] == "stopped"), what="the stop")
    assert re.fullmatch(r"idle for \d+ min", view["reason"]), view["reason"]
    assert view["reason"] in alice.ok("events", idle_time)
    alice.ok("set", idle_time, "--idle", "default")  # or it may stop again before anything uses it
    comes_back(alice, idle_time)


@pytest.fixture
def continued(alice: Person, kept: str) -> Iterator[str]:
    alice.ok("set", kept, "--continue", CONTINUED)
    yield kept
    alice.ok("set", kept, "--continue", "default")


def test_session_continues_in_another_job_at_its_time_limit(guest: Guest, alice: Person, continued: str) -> None:
    """The limit is lowered while the job runs: how long the session took to start does not matter."""
    before = alice.show(continued)
    job = before["job_id"]
    began = f"$(date -d $(squeue -h -j {job} -o %S) +%s)"
    guest.sh(f"scontrol update jobid={job} timelimit=$(( ($(date +%s) - {began}) / 60 + 3 ))")
    view = alice.until(
        continued,
        lambda view: bool(view["state"] == "ready" and view["job_id"] != job),
        what="the session in another job",
        seconds=LIMIT_SECONDS,
    )
    assert view["host_key_fingerprint"] == before["host_key_fingerprint"]
    assert files_are_kept(alice, continued)
    # The job begins to end 5 s before its limit. Under emulation Slurm may still find it there after the limit.
    assert re.search(rf"^{job} .*(COMPLETED|TIMEOUT)", alice.ok("history", continued), re.MULTILINE)


@pytest.mark.parametrize("process", KILLED)
def test_killed_process_of_the_job_ends_it_and_the_session_comes_back(
    guest: Guest, alice: Person, saved: str, process: str
) -> None:
    """Nothing of the job is left on the node, and no second job writes to the volumes meanwhile."""
    before = alice.show(saved)
    job = before["job_id"]
    find = KILLED[process].format(job=job)
    if process == "sshd":
        alice.ssh(saved, f"kill -KILL $({find})")
    else:
        guest.sh(f"kill -KILL $({find})")
    view = alice.until(saved, lambda view: view["state"] in {"failed", "stopped"}, what="the end of the session")
    assert view["reason"], view
    wait_until(lambda: left(guest, job) == "", seconds=SECONDS, what="the end of the job's processes", every=1)
    comes_back(alice, saved)
    assert alice.show(saved)["job_id"] != job


def test_session_lives_through_a_killed_slurmd(guest: Guest, alice: Person, kept: str) -> None:
    job = alice.show(kept)["job_id"]
    guest.sh("kill -KILL $(systemctl show -P MainPID slurmd)")
    guest.sh("systemctl restart slurmd", seconds=SECONDS)
    assert files_are_kept(alice, kept)
    view = alice.until(kept, lambda view: bool(view["state"] == "ready"), what="the session to be ready")
    assert view["job_id"] == job
    assert guest.sh(f"squeue -h -j {job} -o %T") == "RUNNING"


def left(guest: Guest, job: int) -> str:
    """Return what is left of a job: processes, mounts and directories on the node."""
    return guest.sh(
        f"pgrep -a -f 'slurmstepd: .{job}\\.' || :; pgrep -u alice -a -f 'slurm_script /' || :; "
        f"pgrep -u alice -a -f 'sshd.*berth' || :; squeue -h -j {job} -o %T 2>/dev/null || :"
    )
