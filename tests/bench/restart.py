"""`restart` and `switch`: from the command to the first byte of a shell, against the same by a stop and a start."""

from __future__ import annotations

import itertools
import shlex
from typing import TYPE_CHECKING

from slurm.lab.progress import ProgressLog
from tests.bench.ground import PROFILE, SSH_CONFIG
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, UnmeasurableError, result
from tests.bench.start import SHELL
from tests.site import deploy

if TYPE_CHECKING:
    from tests.bench.ground import Ground

RESTART, SWITCH = "restart", "switch"
OTHER = "other"
"""The profile that is switched to: tests/site/other.yaml."""
SAME_JOB, NEW_JOB = "same-job", "new-job"
"""The session of each side."""


def measure_restart(ground: Ground, runs: int) -> Result:
    commands = [f"berth restart {SAME_JOB}"]
    peers = [f"berth stop {NEW_JOB} && berth start {NEW_JOB}"]
    return _measure(ground, runs, RESTART, commands=commands, peers=peers, target=Target(0.7))


def measure_switch(ground: Ground, runs: int) -> Result:
    """Switch both sessions there and back in turns."""
    deploy.build_profile(ground.site, OTHER, ProgressLog())
    profiles = (OTHER, PROFILE)
    commands = [f"berth switch --yes {SAME_JOB} {profile}" for profile in profiles]
    peers = [
        f"berth stop {NEW_JOB} && berth switch --yes {NEW_JOB} {profile} && berth start {NEW_JOB}"
        for profile in profiles
    ]
    return _measure(ground, runs, SWITCH, commands=commands, peers=peers, target=Target(0.8))


def _measure(ground: Ground, runs: int, name: str, *, commands: list[str], peers: list[str], target: Target) -> Result:
    """Run the commands of each side in turns. UnmeasurableError if ours takes another job."""
    for session in (SAME_JOB, NEW_JOB):
        ground.sh(f"berth start {session} --profile {PROFILE} --mem=1G >/dev/null", seconds=120)
    kept = _job(ground)
    ours, peer = itertools.cycle(commands), itertools.cycle(peers)
    sides = {
        "ours": lambda: _until_shell(ground, SAME_JOB, next(ours)),
        "peer": lambda: _until_shell(ground, NEW_JOB, next(peer)),
    }
    try:
        seconds = in_turns(sides, runs, name=name, unit="s")
        if _job(ground) != kept:
            raise UnmeasurableError(f"{name}: the session did not keep its job")
    finally:
        names = f"{SAME_JOB} {NEW_JOB}"
        ground.sh(f"berth stop {names}; berth delete --yes --purge {names}", seconds=120)
    return result(name, seconds["ours"], seconds["peer"], "s", target)


def _until_shell(ground: Ground, session: str, command: str) -> float:
    ssh = f"exec ssh -F {SSH_CONFIG} {session}.berth {shlex.quote(SHELL)}"
    return ground.seconds_to_first_byte(["bash", "-ec", f"{{ {command}; }} >/dev/null; {ssh}"])


def _job(ground: Ground) -> int:
    return int(ground.berth(f"show {SAME_JOB}")["job_id"])
