"""`berth sbatch --env` of a session with 2 GB of new files, stopped or running, against copying them."""

from __future__ import annotations

import itertools
import shlex
from typing import TYPE_CHECKING

from tests.bench.ground import PROFILE, ROOM, SSH_CONFIG
from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result
from tests.bench.volumes import COPY, LAYERS, SOCKET, fill_script, is_settled, timed, top_of
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from tests.bench.ground import Ground

STOPPED, RUNNING = "sbatch-env", "sbatch-env-running"
FILES, BYTES = 2_000, 2 * 10**9
SEED = "/shared/berth/alice/seed"
"""The files, on the file system of the layers, so that a session can get them as links."""
SCRIPT = f"{ROOM}/environment.sh"
_numbers = itertools.count()


def measure_stopped(ground: Ground, runs: int) -> Result:
    """Give the top of the stopped session the files again before each submission: the last one has frozen it."""
    name = f"submitted-{next(_numbers)}"
    _prepare(ground, name)
    ground.sh(f"berth stop {name}; {fill_script(SEED, FILES, BYTES)}; sync -f {SEED}", seconds=300)

    def ours() -> float:
        top = f"{LAYERS}/{top_of(ground, name)}/tree"
        ground.sh(f"cp -al {SEED} {top}/new-{next(_numbers)}; sync -f {LAYERS}", seconds=120)
        return _submit(ground, name)

    try:
        seconds = in_turns({"ours": ours, "peer": lambda: _copy(ground, SEED)}, runs, name=STOPPED, unit="s")
    finally:
        _remove(ground, name)
        ground.sh(f"rm -rf {SEED}", seconds=120)
    return result(STOPPED, seconds["ours"], seconds["peer"], "s", Target(0.1))


def measure_running(ground: Ground, runs: int) -> Result:
    """Touch every file before each submission, so that no earlier copy of it can be linked."""
    name = f"submitted-{next(_numbers)}"
    _prepare(ground, name)
    top = f"{LAYERS}/{top_of(ground, name)}/tree"
    inside = f"ssh -F {SSH_CONFIG} {name}.berth"
    ground.sh(f"{inside} {shlex.quote('bash -c ' + shlex.quote(fill_script('content', FILES, BYTES)))}", seconds=300)

    def ours() -> float:
        ground.sh(f"{inside} 'find content -exec touch -c {{}} +; sync -f .'", seconds=120)
        wait_for(lambda: is_settled(ground, top), what="the last change to be of the past")
        return _submit(ground, name)

    try:
        seconds = in_turns({"ours": ours, "peer": lambda: _copy(ground, top)}, runs, name=RUNNING, unit="s")
    finally:
        ground.sh(f"berth stop {name}", seconds=120)
        _remove(ground, name)
    return result(RUNNING, seconds["ours"], seconds["peer"], "s", Target(0.6))


def _prepare(ground: Ground, name: str) -> None:
    ground.sh(f"printf '#!/bin/sh\\n#SBATCH --output=/dev/null --time=1 --hold\\ntrue\\n' >{SCRIPT}")
    ground.sh(f"berth start {name} --profile {PROFILE} --mem=1G >/dev/null", seconds=120)


def _submit(ground: Ground, name: str) -> float:
    """Seconds until sbatch has printed the job's id. The job and its environment are removed off the clock."""
    took = timed(ground, f"berth sbatch --env {name} {SCRIPT}")
    ground.sh("scancel --me --state=PENDING")
    _discard(ground)
    return took


def _discard(ground: Ground) -> None:
    """Remove all environments and what only they need."""
    calls = f"curl -sf --unix-socket {SOCKET} http://localhost/v1/environments"
    ids = ground.sh(f'{calls} | grep -o \'"id":"[0-9a-z]*"\' | cut -d\'"\' -f4 || :').split()
    for each in ids:
        ground.sh(f"{calls}/{each} -X DELETE >/dev/null", seconds=120)


def _copy(ground: Ground, source: str) -> float:
    """Seconds until the copy is on disk."""
    took = timed(ground, f"cp -a {source} {COPY}; sync -f {COPY}", before="sync -f ~")
    ground.sh(f"rm -rf {COPY}", seconds=120)
    return took


def _remove(ground: Ground, name: str) -> None:
    _discard(ground)
    ground.sh(f"berth delete --yes --purge {name}; berth gc", seconds=300)
