"""`berth profile build` of an unchanged recipe, against `apptainer inspect` of its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result

if TYPE_CHECKING:
    from tests.bench.ground import Ground

NAME = "build-again"
LIMIT_S = 600.0
PLACE = "/var/tmp/build-again"  # noqa: S108 - of the lab, which has no strangers
RECIPE = f"{PLACE}/profile.yaml"
STORE = f"{PLACE}/store"
PREPARE = f"""
rm -rf {PLACE}; mkdir {PLACE}
printf 'name: again\\nversion: 1\\nbase: profile:base\\nfiles:\\n- destination: /opt/x\\n  content: x\\n' >{RECIPE}
berth profile build {RECIPE} --store {STORE}
"""


def measure(ground: Ground, runs: int) -> Result:
    """Build once as alice on the login node, and then measure what a second build takes."""
    ground.sh(PREPARE, seconds=LIMIT_S)
    again = ("berth", "profile", "build", RECIPE, "--store", STORE)
    inspect = ("apptainer", "inspect", f"{STORE}/again/1/image.sif")
    try:
        sides = {
            "ours": lambda: ground.timed(again, seconds=LIMIT_S)[0],
            "peer": lambda: ground.timed(inspect, seconds=LIMIT_S)[0],
        }
        seconds = in_turns(sides, runs, name=NAME, unit="s")
    finally:
        ground.sh(f"rm -rf {PLACE}")
    return result(NAME, seconds["ours"], seconds["peer"], "s", Target(3))
