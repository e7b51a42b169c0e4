"""Restart, rollback, switch and root mode on a full cluster: the session keeps its job, and queued jobs still wait."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest

from broker.errors import ExitCode
from slurm.lab.progress import ProgressLog
from tests.lab.dying import dies_at_each
from tests.lab.kept import Kept
from tests.lab_cluster import wait_for
from tests.site import deploy

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

NODE = "c3"
NAME = "keeps"
WAIT = ("--yes", "--timeout", "120")
GPU = "--gres=gpu:intel:1"
OPENED = "echo $SLURM_JOB_GPUS; for gpu in /dev/dri/renderD*; do head -c 0 $gpu 2>/dev/null && echo $gpu; done; :"
"""Prints the number of the job's GPU, and the devices that a program in the session can open."""


@pytest.fixture(scope="module")
def alice(people: dict[str, User]) -> User:
    return people["alice"]


@pytest.fixture(scope="module")
def queued(alice: User) -> Iterator[str]:
    """A job of bob's that wants the session's whole node, and so waits for the end of its job."""
    lab = alice.site.lab
    alice.ok("start", NAME, "--profile", "base", f"--nodelist={NODE}", "--exclusive", GPU, "-t", "60", seconds=120)
    command = f"sbatch --parsable -w {NODE} --exclusive -t 10 -o /dev/null --wrap 'sleep 600'"
    job = lab.sh(command, user="bob").strip()
    yield job
    lab.sh(f"scancel {job}", user="bob")
    alice.remove(NAME)


def state_of(alice: User, job: str) -> str:
    return alice.site.lab.sh(f"squeue -h -o %T -j {job}").strip()


def place(view: dict[str, Any]) -> tuple[int, str]:
    return view["job_id"], view["endpoint"]["node"]


def kept(alice: User, queued: str, ask: Callable[[], object]) -> dict[str, Any]:
    """Ask for something that starts the session again; it must have the same job, node and GPU, and another run id."""
    before, opened = alice.show(NAME), alice.laptop.ok(NAME, OPENED)
    assert b"/dev/dri/renderD" in opened
    assert state_of(alice, queued) == "PENDING"
    ask()
    after = alice.wait(NAME, "ready")
    assert place(after) == place(before)
    assert after["generation"] != before["generation"]
    assert state_of(alice, queued) == "PENDING"
    assert alice.every_job(after["id"]) == [str(before["job_id"])]
    assert alice.laptop.ok(NAME, OPENED) == opened
    return after


def test_restart_keeps_the_job(alice: User, queued: str) -> None:
    alice.laptop.ok(NAME, "echo kept >file; sleep 1000 >/dev/null 2>&1 & echo $! >pid")
    kept(alice, queued, lambda: alice.ok("restart", NAME, "--timeout", "120", seconds=150))
    assert (
        alice.laptop.ok(NAME, "cat file; kill -0 $(cat pid) 2>/dev/null && echo lives || echo ended")
        == b"kept\nended\n"
    )


def test_rollback_keeps_the_job(alice: User, queued: str) -> None:
    alice.laptop.ok(NAME, "echo one >file")
    alice.ok("snapshot", NAME, "one", seconds=90)
    alice.laptop.ok(NAME, "echo two >file")
    kept(alice, queued, lambda: alice.ok("rollback", NAME, "one", *WAIT, seconds=150))
    assert alice.laptop.ok(NAME, "cat file") == b"one\n"


def test_switch_keeps_the_job(alice: User, queued: str, other: str) -> None:
    view = kept(alice, queued, lambda: alice.ok("switch", NAME, other, *WAIT, seconds=150))
    assert view["profile"] == other
    view = kept(alice, queued, lambda: alice.ok("switch", NAME, "base", *WAIT, seconds=150))
    assert view["profile"] == "base"


def test_root_mode_keeps_the_job(alice: User, queued: str) -> None:
    script = "id -u; touch /opt/by-root"
    kept(alice, queued, lambda: alice.ok("exec", "--root", "--yes", NAME, "--", "sh", "-c", script, seconds=240))
    assert not alice.show(NAME)["root"]
    alice.laptop.ok(NAME, "test -e /opt/by-root")


class Undone:
    """An operation that is undone: the session is as before, in the same job, and its owner reads why."""

    def __init__(self, alice: User) -> None:
        self.alice = alice
        alice.laptop.ok(NAME, "echo here >file")
        self.before = alice.show(NAME)

    def reads(self, verb: str, done: subprocess.CompletedProcess[bytes], why: str) -> None:
        said = done.stderr.decode()
        assert done.returncode == ExitCode.FAILED, said
        assert f"{NAME} did not become ready after" in said
        assert why in said
        assert f"it starts again as it was before the {verb}" in said
        assert f"berth logs {NAME}" in said
        view = self.alice.show(NAME)
        assert place(view) == place(self.before)
        assert (view["state"], view["profile"]) == ("ready", self.before["profile"])
        assert self.alice.laptop.ok(NAME, "cat file") == b"here\n"
        assert f"{verb} at" in self.alice.ok("show", NAME)
        assert why in self.alice.ok("show", NAME)
        events = self.alice.ok("events", NAME)
        assert f"{verb}-undone" in events
        assert why in events

    def is_explained(self, why: str) -> None:
        assert why in self.alice.ok("explain", NAME)


@pytest.fixture
def undone(alice: User, queued: str) -> Iterator[Undone]:
    yield Undone(alice)
    assert state_of(alice, queued) == "PENDING"
    assert len(alice.every_job(alice.show(NAME)["id"])) == 1


def test_rollback_to_a_state_without_sshd(alice: User, undone: Undone) -> None:
    alice.laptop.ok(NAME, "cp /usr/sbin/sshd ~/kept; rm /usr/sbin/sshd")
    alice.ok("snapshot", NAME, "no-sshd", seconds=90)
    alice.laptop.ok(NAME, "mv ~/kept /usr/sbin/sshd")
    done = alice.berth("rollback", NAME, "no-sshd", *WAIT, seconds=150)
    undone.reads("rollback", done, "the image has no /usr/sbin/sshd")
    undone.is_explained("the image has no /usr/sbin/sshd")


def test_rollback_to_a_state_with_a_missing_layer(alice: User, undone: Undone) -> None:
    """The launcher refuses it while the job waits, so that there is nothing to undo."""
    alice.laptop.ok(NAME, "echo lost >lost")
    alice.ok("snapshot", NAME, "torn", seconds=90)
    disk = Kept(alice, NAME).disk()
    layer = next(each for each in disk.record()["snapshots"] if each["label"] == "torn")["home"][-1]
    alice.laptop.ok(NAME, "rm lost")
    disk.sh(f"mv {disk.root}/layers/{layer} {disk.root}/aside")
    try:
        done = alice.berth("rollback", NAME, "torn", *WAIT, seconds=150)
    finally:
        disk.sh(f"mv {disk.root}/aside {disk.root}/layers/{layer}")
    assert done.returncode == ExitCode.NOT_FOUND
    assert layer in done.stderr.decode()
    assert place(alice.wait(NAME, "ready")) == place(undone.before)
    assert alice.laptop.ok(NAME, "cat file") == b"here\n"


def test_rollback_to_a_state_whose_layer_is_lost_before_the_start(crashing: Site, alice: User, undone: Undone) -> None:
    alice.laptop.ok(NAME, "echo lost >lost")
    alice.ok("snapshot", NAME, "lost", seconds=90)
    kept = Kept(alice, NAME)
    disk = kept.disk()
    layer = next(each for each in disk.record()["snapshots"] if each["label"] == "lost")["home"][-1]
    alice.laptop.ok(NAME, "rm lost")
    lose = lambda _: disk.sh(f"mv {disk.root}/layers/{layer} {disk.root}/aside")  # noqa: E731 - the layer is needed in it
    dies_at_each(crashing, ["rollback.done"], lambda: kept.send("rollback", body={"snapshot": "lost"}), lose)
    view = alice.until(NAME, lambda view: view["operation"]["reversed"], what="the rollback to be undone", seconds=90)
    disk.sh(f"mv {disk.root}/aside {disk.root}/layers/{layer}")
    assert f"{layer} is missing or has no tree" in view["operation"]["message"]
    assert place(alice.wait(NAME, "ready")) == place(undone.before)
    assert alice.laptop.ok(NAME, "cat file; ls lost 2>/dev/null || :") == b"here\n"


def test_switch_to_an_image_whose_sshd_ends(alice: User, undone: Undone) -> None:
    deploy.build_profile(alice.site, "broken", ProgressLog(quiet=True))
    done = alice.berth("switch", NAME, "broken", *WAIT, seconds=150)
    undone.reads("switch", done, "sshd: no hostkeys available")


def test_switch_to_an_image_whose_sshd_never_listens(alice: User, undone: Undone) -> None:
    deploy.build_profile(alice.site, "silent", ProgressLog(quiet=True))
    done = alice.berth("switch", NAME, "silent", *WAIT, seconds=150)
    undone.reads("switch", done, "sshd did not listen within 30 s")


def test_history_has_each_run_once(alice: User, queued: str) -> None:
    """The time of a job is counted once, whatever number of runs it had."""
    assert queued
    jobs = json.loads(alice.ok("history", NAME, "--json"))["jobs"]
    assert len({job["job_id"] for job in jobs}) == 1
    assert len(jobs) >= 5
    runs = sorted((job["started_at"], job["ended_at"]) for job in jobs)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(runs))


def test_stop_ends_the_job_and_lets_the_next_one_run(alice: User, queued: str) -> None:
    alice.ok("stop", NAME, seconds=120)
    wait_for(lambda: state_of(alice, queued) == "RUNNING", what="bob's job to run", seconds=120)


def test_a_session_that_does_not_start_as_before_either_has_failed(alice: User, name: str) -> None:
    """The restart is tried twice, and then the job ends."""
    alice.ok("start", name, "--profile", "base", "--mem=200M", seconds=120)
    alice.laptop.ok(name, "mv /usr/sbin/sshd ~/kept")
    done = alice.berth("restart", name, "--timeout", "120", seconds=150)
    assert done.returncode == ExitCode.FAILED
    assert "the image has no /usr/sbin/sshd" in done.stderr.decode()
    view = alice.show(name)
    assert (view["state"], view["operation"]["reversed"]) == ("failed", True)
    wait_for(lambda: alice.jobs(view["id"]) == [], what="the job to end")
    assert len(alice.every_job(view["id"])) == 1
