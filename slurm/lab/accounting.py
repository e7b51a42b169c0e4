"""The cluster, its account and its users in slurmdbd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm.lab.commands import run_tool
from slurm.lab.enter import exec_argv
from slurm.lab.errors import LabError
from slurm.lab.spec import LOGIN

if TYPE_CHECKING:
    from slurm.lab.paths import LabPaths
    from slurm.lab.spec import LabSpec


def register_users(place: LabPaths, spec: LabSpec) -> None:
    """Register everything that slurmdbd does not have yet. LabError if it does not know all users afterwards."""
    wanted = {*spec.users, *spec.operators}
    if wanted <= _users(place):
        return
    script = "\n".join(
        [
            f"add cluster {spec.name}",
            "add account lab Description=lab Organization=lab",
            f"add user {','.join((*spec.users, *spec.operators))} Account=lab",
            *(f"modify user {name} set AdminLevel=Operator" for name in spec.operators),
            "quit",
            "",
        ]
    )
    log = place.log(LOGIN, "slurmdbd")
    # sacctmgr ends with 1 if any of these exists already, and continues with the rest.
    run_tool(exec_argv(LOGIN, ["sacctmgr", "--immediate"], lab=place), stdin=script, log=log, check=False)
    missing = wanted - _users(place)
    if missing:
        raise LabError(f"slurmdbd does not take users {', '.join(sorted(missing))}", log=log)


def _users(place: LabPaths) -> set[str]:
    argv = ["sacctmgr", "--noheader", "--parsable2", "show", "associations", "format=user"]
    return set(run_tool(exec_argv(LOGIN, argv, lab=place)).split())
