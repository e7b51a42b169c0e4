"""Other resources for a running session: beside its present job, or in its place on a full cluster."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import ExitCode
from tests.lab.dying import begin, stopped_session
from tests.lab.services import restart
from tests.lab.test_restart_crashes import containers
from tests.lab_cluster import wait_for
from tests.printed.world import ON_TERMINAL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.lab.kept import Kept
    from tests.site.deploy import Site

NODE = "c3"
MORE = "--mem=300M"
WAITS = "another job has the volumes of this session open"
POINTS = ["start.prepared", "launcher.submit-begun", "start.submitted", "resize.takeover", "stop.cancelled"]
"""The points of a resize at which launcher and controller die; `stop.cancelled`: the present job ends."""
FEW_POINTS = ["start.submitted", "resize.takeover"]


@contextlib.contextmanager
def busy(bob: User, options: str) -> Iterator[str]:
    """A job of bob's in the queue or on the cluster."""
    job = bob.site.lab.sh(f"sbatch --parsable {options} -o /dev/null --wrap 'sleep 600'", user=bob.name).strip()
    yield job
    bob.site.lab.sh(f"scancel {job}", user=bob.name)


def state_of(user: User, job: object) -> str:
    return user.site.lab.sh(f"squeue -h -o %T -j {job}").strip()


def begin_program(alice: User, name: str) -> None:
    """Start a program that counts in a file as long as its job runs."""
    count = "n=0; while sleep 0.1; do echo $((n+=1)) >/tmp/count; done"
    alice.laptop.ok(name, f"setsid bash -c '{count}' >/dev/null 2>&1 </dev/null &")


def counts(alice: User, name: str) -> bool:
    """Whether that program runs."""
    look = "cat /tmp/count 2>/dev/null || echo 0"
    first = alice.laptop.ok(name, look)
    wait_for(lambda: alice.laptop.ok(name, look) != first, what="the program to count")
    return True


def test_programs_run_until_the_new_job_runs(alice: User, bob: User, name: str) -> None:
    """The new job cannot start before bob's job has ended: until then the session is as it was."""
    alice.ok("start", name, "--profile", "base", "--mem=200M", "-t", "60", seconds=120)
    before = alice.show(name)
    alice.laptop.ok(name, "echo kept >file")
    begin_program(alice, name)
    with busy(bob, f"-w {NODE} --exclusive -t 10") as blocker:
        wait_for(lambda: state_of(bob, blocker) == "RUNNING", what="bob's job to run")
        alice.ok("resize", name, MORE, f"--nodelist={NODE}", "--no-wait", "--keep")
        view = alice.until(name, lambda view: view["next_job_reason"], what="the new job to wait", seconds=60)
        assert (view["state"], view["job_id"], view["beside"]) == ("ready", before["job_id"], True)
        assert counts(alice, name)
        assert f"moves to job {view['next_job_id']} with other resources when that runs" in alice.ok("show", name)
        refused = alice.berth("restart", name)
        assert refused.returncode == ExitCode.CONFLICT
        assert f"a resize of {name} waits for job {view['next_job_id']}" in refused.stderr.decode()
    after = alice.carried_on(name, before, 120)
    assert (after["job_id"], after["endpoint"]["node"]) == (view["next_job_id"], NODE)
    assert alice.laptop.ok(name, "cat file; ls /tmp/count 2>/dev/null || :") == b"kept\n"
    assert "its resources were changed" in alice.ok("history", name)
    assert alice.jobs(after["id"]) == [str(after["job_id"])]


def test_lock_that_stays_on_the_node(kept: Kept) -> None:
    """The new job locks another file of that name, as if each node had locks of its own."""
    kept.again()
    kept.mark("two")
    before, disk, user = kept.view(), kept.disk(), kept.user
    record = f"JOB={before['job_id']}\nRUN={before['generation']}\nNODE={before['endpoint']['node']}"
    owner = f"cat {disk.directory}/run/lock.owner"
    assert disk.sh(owner) == record
    disk.sh(f"rm {disk.directory}/run/lock")
    user.ok("resize", kept.name, MORE, "--no-wait", "--keep")
    after = user.carried_on(kept.name, before, 120)
    log = disk.sh(f"cat {disk.directory}/run/job.log")
    assert f"job {before['job_id']} on {before['endpoint']['node']} (run/lock.owner) has the volumes" in log
    assert f"JOB={after['job_id']}\n" in disk.sh(owner)
    assert kept.marks() == ["two", "two"]
    kept.stop()
    assert disk.sh(f"ls {disk.directory}/run").split().count("lock.owner") == 0


@pytest.mark.parametrize("record", ["JOB=999999999\nRUN=1.0\nNODE=c1\n", "no record\n"])
def test_record_that_a_killed_job_has_left_holds_up_nothing(kept: Kept, record: str) -> None:
    disk = kept.disk()
    disk.sh(f"printf %s {shlex.quote(record)} >{disk.directory}/run/lock.owner")
    kept.again()
    assert f"JOB={kept.view()['job_id']}\n" in disk.sh(f"cat {disk.directory}/run/lock.owner")
    assert "waiting up to" not in disk.sh(f"cat {disk.directory}/run/job.log")


def test_cancelled_wait_leaves_the_session_as_it_was(alice: User, bob: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--mem=200M", "-t", "60", seconds=120)
    before = alice.show(name)
    begin_program(alice, name)
    with busy(bob, f"-w {NODE} --exclusive -t 10") as blocker:
        wait_for(lambda: state_of(bob, blocker) == "RUNNING", what="bob's job to run")
        waited = alice.berth("resize", name, MORE, f"--nodelist={NODE}", "--timeout", "5", seconds=60)
        assert waited.returncode == ExitCode.TIMED_OUT, waited.stderr.decode()
        assert f"`berth resize {name} --cancel` keeps it there" in waited.stderr.decode()
        waiting = alice.show(name)["next_job_id"]
        assert f"keeps job {before['job_id']}" in alice.berth("resize", name, "--cancel").stderr.decode()
        wait_for(lambda: state_of(alice, waiting) == "", what="the new job to be cancelled")
        view = alice.show(name)
        same = ("state", "job_id", "options", "generation", "resizing")
        assert [view[key] for key in same] == [before[key] for key in same]
        assert counts(alice, name)
        alice.site.lab.sh(f"scontrol requeue {before['job_id']}")  # its job.env is its own again
        again = alice.runs_again(name, before, 180)
        assert again["job_id"] == before["job_id"]


def test_risk_on_a_full_cluster_is_announced(alice: User, bob: User, name: str) -> None:
    """The session has a whole node, for which bob waits: the new job would need the place of the present one."""
    whole = [f"--nodelist={NODE}", "--exclusive"]
    alice.ok("start", name, "--profile", "base", *whole, "-t", "60", seconds=120)
    before = alice.show(name)
    with busy(bob, f"-w {NODE} --exclusive -t 10") as queued:
        wait_for(lambda: state_of(bob, queued) == "PENDING", what="bob's job to wait")
        refused = alice.berth("resize", name, "--mem=2G", "--keep")
        assert refused.returncode == ExitCode.CONFLICT
        assert "does not expect to start the new job beside the present one" in refused.stderr.decode()
        command = ["python3", "-c", ON_TERMINAL, "berth", "resize", name, "--mem=2G"]
        asked = alice.site.lab.run(command, user=alice.name, stdin=b"n\n" * 5)
        said = asked.stdout.decode()
        assert "its programs end, and it is started again afterwards" in said
        assert "it may have to wait, since 1 other job waits for resources; Slurm expects to start it at" in said
        assert said.index("it may have to wait") < said.index(f"End all programs in {name}?")
        assert (alice.show(name)["job_id"], state_of(bob, queued)) == (before["job_id"], "PENDING")
        alice.ok("resize", name, "--mem=2G", "--yes", "--no-wait")
        wait_for(lambda: state_of(bob, queued) == "RUNNING", what="bob's job to take the place", seconds=90)
        assert alice.wait(name, "queued")["options"][-1] == "--mem=2G"
    alice.wait(name, "ready", seconds=120)


class Resized:
    """A session with a mark on each volume, and what must be true of it after a death in a resize."""

    def __init__(self, site: Site, kept: Kept) -> None:
        self.site = site
        self.kept = kept
        kept.again()
        kept.mark("two")
        self.before = kept.view()

    def settles(self, point: str) -> dict[str, Any]:
        """The session, once it is ready in the old job or in the new one, and no other job is left."""
        ready = {"state": "ready", "resizing": False}
        view = self.kept.user.until(
            self.kept.name,
            lambda view: all(view[key] == value for key, value in ready.items()),
            what=f"the session to settle after {point}",
            seconds=150,
        )
        wait_for(
            lambda: self.kept.user.jobs(view["id"]) == [str(view["job_id"])], what="one job to be left", seconds=60
        )
        assert containers(self.site, view) == 1, point
        assert self.kept.marks() == ["two", "two"], point
        self.kept.verified()
        return view


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    return stopped_session(alice, name)


@pytest.mark.parametrize("points", [FEW_POINTS, pytest.param(POINTS, marks=pytest.mark.soak)], ids=["few", "all"])
def test_deaths_of_the_services(crashing: Site, kept: Kept, points: list[str]) -> None:
    """The next controller continues the resize: the new job takes over, with one container at a time."""
    for number, point in enumerate(points):
        resized = Resized(crashing, kept)
        crashing.kill("broker")
        begin(crashing, point)
        wait_for(crashing.api_answers, what="the armed controller to answer")
        kept.send("resize", body={"options": [f"--mem={250 + number}M"], "present_job": "keep"})
        wait_for(lambda: crashing.ended("broker"), what=f"the end at {point}", seconds=60)
        assert containers(crashing, resized.before) <= 1, point
        restart(crashing)
        view = resized.settles(point)
        assert view["job_id"] != resized.before["job_id"], point


@pytest.mark.soak
@pytest.mark.parametrize("kill", ["scancel", "scancel --full --signal=KILL"])
@pytest.mark.parametrize("which", ["new", "old"])
def test_deaths_of_the_jobs(crashing: Site, kept: Kept, which: str, kill: str) -> None:
    """While the new job waits for the volumes, and the old one has not been cancelled for it."""
    resized, disk = Resized(crashing, kept), kept.disk()
    crashing.kill("broker")
    begin(crashing, "resize.takeover")
    wait_for(crashing.api_answers, what="the armed controller to answer")
    kept.send("resize", body={"options": [MORE], "present_job": "keep"})
    wait_for(lambda: crashing.ended("broker"), what="the end before the cancel", seconds=60)
    old, new = str(resized.before["job_id"]), max(kept.user.jobs(resized.before["id"]), key=int)
    assert WAITS in disk.sh(f"tail -n 5 {disk.directory}/run/job.log")
    crashing.lab.sh(f"{kill} {new if which == 'new' else old}", user=kept.user.name)
    restart(crashing)
    view = resized.settles(f"the kill of the {which} job")
    assert view["options"] == ([MORE] if str(view["job_id"]) == new else resized.before["options"])
    assert view["job_id"] != (int(new) if which == "new" else int(old))
