"""The cluster, its account and its users in slurmdbd."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slurm.lab.commands import run
from slurm.lab.enter import exec_argv
from slurm.lab.spec import LOGIN

if TYPE_CHECKING:
    from slurm.lab.place import Place
    from slurm.lab.spec import Spec


def register(place: Place, spec: Spec) -> None:
    """Register everything that is not registered yet, in one sacctmgr session."""
    log = place.log(LOGIN, "slurmdbd")
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
    run(exec_argv(LOGIN, ["sacctmgr", "--immediate"], lab=place), stdin=script, seconds=60, log=log)
