"""The needs of a session in each release of Slurm.

A job as the launcher asks for it: the functions of session.sh find their data in it, and sbatch explains why it takes
no job. No container runs here: the job calls session.sh's own functions and no more.
"""

from __future__ import annotations

import asyncio
import pwd
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.controller.reconcile import job_comment
from broker.job.bundle import session_script
from broker.launcher.request import RequestContext
from broker.launcher.sbatch_call import UNCLEAR, job_command
from broker.names import new_id
from slurm.command_scheduler import CommandScheduler
from slurm.state import JobState
from tests.lab_cluster import Lab, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm.scheduler import Job

pytestmark = pytest.mark.usefixtures("tidy")

ROOM = "/shared/session-needs"
SUBMISSION = 3
FINGERPRINT = "SHA256:" + "x" * 43

JOB = f"""#!/bin/bash
. {ROOM}/session.sh
case $2 in
  {SUBMISSION})
    echo "foreign ${{FOREIGN-none}}"
    env | grep ^SLURM
    ENDS_AT=0 BERTH_SCONTROL=scontrol
    query_end_time
    echo "ends at $ENDS_AT"
    find_oom_counter /sys/fs/cgroup </proc/self/cgroup
    echo "counter $OOM_COUNTER"
    sed -n 's/^oom_kill /kills /p' "$OOM_COUNTER"
    trap 'echo "got USR2"' USR2
    trap 'echo "got TERM"; exit 0' TERM
    BERTH_SESSION_ID=${{1##*/}} BERTH_SUBMISSION=$2 FINGERPRINT={FINGERPRINT}
    update_job_comment 40000 '' & # in the background, as there
    wait $!
    sleep infinity &
    until wait $!; do kill -0 $! || break; done
    ;;
  *)
    find_oom_counter /sys/fs/cgroup </proc/self/cgroup
    check_memory
    echo whole
    python3 -c 'kept = bytearray(300 << 20)' || echo "hog ended with $?"
    check_memory
    echo 'not noticed'
    ;;
esac
"""
"""As session.sh, it gets the session's directory and the number of the submission."""


@dataclass(frozen=True)
class Slurm:
    """One of the labs, with a directory in which a session's job runs."""

    lab: Lab
    session: str
    """Its directory."""

    def command(self, *options: str, submission: int = SUBMISSION) -> list[str]:
        """Return the command that the launcher would run as alice."""
        place = RequestContext(pwd.getpwuid(0), "", "sbatch", f"{ROOM}/job.sh")
        return job_command(place, Path(self.session), submission, list(options))

    def submit(self, *options: str, submission: int = SUBMISSION) -> int:
        argv = ["env", "FOREIGN=yes", *self.command(*options, submission=submission)]
        done = self.lab.run(argv, user="alice")
        assert done.returncode == 0, done.stderr.decode()
        return int(done.stdout)

    def refusal(self, *options: str, **env: str) -> str:
        """Return sbatch's messages when it ends without a job."""
        done = self.lab.run(self.command(*options), user="alice", env=env)
        assert done.returncode != 0, f"job {done.stdout.decode()}"
        return done.stderr.decode()

    def log(self) -> str:
        return self.lab.sh(f"cat {self.session}/run/job.log")

    def job(self, job_id: int) -> Job:
        """Return the job as the controller sees it."""
        scheduler = CommandScheduler(self.lab.prefix(user="berth"))
        jobs = asyncio.run(scheduler.jobs(job_comment.JOB_PREFIX))
        return {job.id: job for job in jobs}[job_id]

    def wait_for_announcement(self, job_id: int) -> Job:
        """The job, once it has said where it listens: as the last of what session.sh prepares."""
        wait_for(lambda: ":40000:" in self.job(job_id).comment, what="the announcement")
        return self.job(job_id)


@pytest.fixture
def slurm(each_lab: Lab) -> Iterator[Slurm]:
    room = each_lab.shared / ROOM.removeprefix("/shared/")
    room.mkdir(exist_ok=True)
    (room / "session.sh").write_bytes(session_script())
    (room / "job.sh").write_text(JOB)
    for path in (room, *room.iterdir()):
        path.chmod(0o755)
    session = f"/shared/home/alice/{new_id()}"
    each_lab.sh(f"mkdir -p {session}/run", user="alice")
    yield Slurm(each_lab, session)
    each_lab.sh(f"scancel --user=alice; rm -rf {ROOM} {session}")


def test_the_job_finds_in_each_release_what_session_sh_looks_for(slurm: Slurm) -> None:
    job_id = slurm.submit("--gres=gpu:intel:1", "--mem=100", "--time=5")
    job = slurm.wait_for_announcement(job_id)
    said = job_comment.matching_announcement(job, SUBMISSION, FINGERPRINT)
    assert said is not None
    assert said.endpoint is not None
    assert (said.submission, said.restarts, said.endpoint.node, said.endpoint.port) == (SUBMISSION, 0, job.node, 40000)
    log = slurm.log()
    assert "foreign none\n" in log
    variables = dict(re.findall(r"^(SLURM\w+)=(.*)$", log, re.MULTILINE))
    assert job.ends_at is not None
    assert {name: variables[name] for name in ("SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_JOB_END_TIME")} == {
        "SLURM_JOB_ID": str(job_id),
        "SLURMD_NODENAME": job.node,
        "SLURM_JOB_END_TIME": str(int(job.ends_at)),
    }
    assert variables["SLURM_GPUS_ON_NODE"] == "1"
    assert variables["SLURM_JOB_GPUS"] in {"0", "1"}
    assert f"ends at {int(job.ends_at)}\n" in log
    assert re.search(r"^counter /sys/fs/cgroup/\S+$", log, re.MULTILINE)
    assert "kills 0\n" in log
    assert "Requeue=1" in slurm.lab.sh(f"scontrol show job {job_id}")


def test_a_shard_is_told_to_the_job(slurm: Slurm) -> None:
    job_id = slurm.submit("--gres=shard:1", "--mem=100", "--time=5")
    slurm.wait_for_announcement(job_id)
    assert "SLURM_SHARDS_ON_NODE=1\n" in slurm.log()


def test_signals_reach_the_batch_shell(slurm: Slurm) -> None:
    """USR2 as broker.volumes.live_snapshot sends it, TERM as scancel does."""
    job_id = slurm.submit("--mem=100", "--time=5")
    slurm.wait_for_announcement(job_id)
    slurm.lab.sh(f"scancel --batch --signal=USR2 {job_id}", user="alice")
    wait_for(lambda: "got USR2" in slurm.log(), what="USR2")
    slurm.lab.sh(f"scancel {job_id}", user="alice")
    wait_for(lambda: "got TERM" in slurm.log(), what="TERM")


def test_a_killed_process_of_the_job_is_noticed_and_slurm_says_out_of_memory(slurm: Slurm) -> None:
    job_id = slurm.submit("--mem=100", "--time=5", submission=4)
    wait_for(lambda: slurm.job(job_id).state.ended, what="the job's end")
    log = slurm.log()
    assert "whole\nhog ended with 137\n" in re.sub(r".*Killed.*\n", "", log)
    assert "out of memory: a process of the session was killed" in log
    assert "not noticed" not in log
    assert slurm.job(job_id).state is JobState.OUT_OF_MEMORY


def test_the_second_job_of_a_session_waits_for_the_first(slurm: Slurm) -> None:
    first = slurm.submit("--hold", "--time=5")
    second = slurm.submit("--time=5")
    wait_for(lambda: slurm.job(second).reason == "Dependency", what="the reason")
    slurm.lab.sh(f"scancel {first}")
    wait_for(lambda: slurm.job(second).state is JobState.RUNNING, what="its start")


@pytest.mark.parametrize("option", ["--partition=nowhere", "--mem=999G", "--gres=gpu:nvidia:1", "--resources=x"])
def test_sbatch_s_refusal_is_one(slurm: Slurm, option: str) -> None:
    words = slurm.refusal(option)
    assert not UNCLEAR.search(words), words


def test_sbatch_s_silence_is_no_refusal(slurm: Slurm) -> None:
    """A job that slurmctld may have taken does not count as refused."""
    slurm.lab.sh(f"(cat /etc/slurm/slurm.conf; echo SlurmctldPort=1) >{ROOM}/slurm.conf")
    words = slurm.refusal(SLURM_CONF=f"{ROOM}/slurm.conf")
    assert UNCLEAR.search(words), words
