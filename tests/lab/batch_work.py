"""A directory on the login node from which tests on the lab submit batch jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from tests.lab.conftest import User

WORK = "/shared/home/alice/batch"
"""The directory from which jobs are submitted; the home of the login node is not the environment's."""


class Work:
    """A directory of alice's, and the jobs that are submitted from there."""

    path = WORK

    def __init__(self, user: User) -> None:
        self.user = user
        self.lab = user.site.lab
        self.lab.sh(f"rm -rf {WORK}; mkdir -p {WORK}", user="alice")

    def write(self, name: str, text: str) -> None:
        self.lab.run(["tee", f"{WORK}/{name}"], user="alice", stdin=text.encode())

    def sh(self, command: str, *, code: int = 0, seconds: float = DEADLINE_S) -> str:
        done = self.lab.run(["bash", "-c", f"cd {WORK}; {command}"], user="alice", seconds=seconds)
        assert done.returncode == code, (done.stdout + done.stderr).decode()
        return done.stdout.decode()

    def sbatch(self, words: str, *, code: int = 0) -> str:
        """`berth sbatch --wait …`: the job's id; its output is in the file that it is named for."""
        said = self.sh(f"berth sbatch --wait --parsable -t 5 --mem=200M {words}", code=code, seconds=120)
        return said.strip()

    def output(self, job: str) -> str:
        return self.sh(f"cat slurm-{job}.out")

    def at_once(self, commands: dict[str, str], *, seconds: float = 120) -> dict[str, str]:
        """Run commands side by side, each of which writes `<name>.out`, to their ends; those files.

        What they say themselves, and their exit codes, are in `<name>.said` and `<name>.code`.
        """
        each = [f"{{ {command}; }} >{name}.said 2>&1; echo $? >{name}.code" for name, command in commands.items()]
        self.sh("".join(f"({one}) & " for one in each) + "wait", seconds=seconds)
        return {name: self.sh(f"cat {name}.out || cat {name}.said") for name in commands}

    def run(self, words: str, body: str, *, code: int = 0) -> str:
        """Submit a job with this script, and return its output."""
        self.write("job.sh", f"#!/bin/bash\n{body}")
        return self.output(self.sbatch(f"{words} job.sh", code=code))
