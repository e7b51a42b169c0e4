"""Batch jobs in a session's environment: `berth sbatch --env`, with and without sbatch's own `--wait`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slurm.lab.progress import wait_until
from tests.vm.person import SECONDS

if TYPE_CHECKING:
    from tests.vm.person import Person

pytestmark = pytest.mark.vm

OPTIONS = "--parsable --mem=200M --time=60"
SCRIPT = """#!/bin/bash
echo "$PWD $(id -un) $(cat ~/result) $(cat /opt/result)"
echo written >written
echo changed >~/result
"""
SAYS = "/home/alice/batch alice tested tested\n"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


@pytest.fixture
def work(alice: Person, dev: str) -> str:
    """A directory on the login node, and a session with a result in each volume."""
    alice.inside(dev, "echo tested >~/result; echo tested >/opt/result")
    alice.sh("rm -rf batch; mkdir batch")
    alice.guest.run(["tee", "/home/alice/batch/job.sh"], user=alice.name, stdin=SCRIPT.encode())
    return "batch"


def test_script_runs_in_a_copy_of_the_session_and_what_it_wrote_is_fetched(alice: Person, dev: str, work: str) -> None:
    job = alice.sh(f"cd {work}; berth sbatch {OPTIONS} --env {dev} job.sh")

    def ended() -> bool:
        return alice.sh(f"sacct -X -n -o state%20 -j {job}").strip() in ENDED

    wait_until(ended, seconds=SECONDS, what="the end of the batch job", every=1)
    assert alice.sh(f"cat {work}/slurm-{job}.out") + "\n" == SAYS
    assert alice.sh(f"sacct -X -n -o state,exitcode -j {job}").split() == ["COMPLETED", "0:0"]
    assert alice.inside(dev, "cat ~/result") == "tested"
    alice.ok("fetch", job)
    assert alice.sh(f"cat {work}/written") == "written"


def test_wait_returns_with_the_scripts_exit_code(alice: Person, dev: str, work: str) -> None:
    """sbatch asks slurmctld at intervals of up to half a minute."""
    done = alice.guest.run(
        ["bash", "-c", f"cd {work}; berth sbatch --wait {OPTIONS} --env {dev} --wrap 'cat ~/result; exit 3'"],
        user=alice.name,
        seconds=SECONDS,
    )
    assert done.returncode == 3, done.stderr
    assert alice.sh(f"cat {work}/slurm-{done.stdout.decode().strip()}.out") == "tested"
