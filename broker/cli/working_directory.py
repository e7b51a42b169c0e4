"""Find the working directory of a batch job in an environment, as sbatch would set it."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.commandline import option_in_script, option_of_first_component

if TYPE_CHECKING:
    from broker.schema.environments import EnvironmentView
    from slurm.commandline import CommandLine

SYSTEMS_OWN = re.compile(r"/(|(usr|etc|bin|sbin|lib[^/]*|proc|sys|dev|run|var|tmp)(/.*)?)")
"""The root, and what belongs to the system on the node as in the image; as in batch.sh."""
HOME_INSIDE = "/home/{}"


@dataclass(frozen=True, slots=True)
class WorkingDirectory:
    """Return the directory that sbatch is asked for, as an absolute path without links; empty if it is unknown."""

    path: str
    homes: tuple[str, ...]
    """The login's home, as the account has it and without links."""
    owner: str

    @classmethod
    def of(cls, line: CommandLine, script: bytes) -> WorkingDirectory:
        """Read `--chdir` on the command line or in the script; without it, it is the current directory."""
        import pwd  # noqa: PLC0415 - needed after the job is submitted

        asked = option_of_first_component(line, "chdir")
        if asked is None:
            asked = option_in_script("chdir", script)
        account = pwd.getpwuid(os.getuid())
        path = ""
        with contextlib.suppress(OSError):  # the current directory is gone, or may not be read
            path = os.path.realpath(asked or ".")
        return cls(path, (account.pw_dir, os.path.realpath(account.pw_dir)), account.pw_name)

    def remarks(self, environment: EnvironmentView, job: int) -> list[str]:
        """Say why the job works in its own copy; empty if it works in the node's directory."""
        path = Path(self.path)
        if not self.path:
            return []
        if SYSTEMS_OWN.fullmatch(self.path):
            return [f"the job works in the environment's own {path}, which goes with the job"]
        if any(path.is_relative_to(bind.split(":")[0]) for bind in environment.binds):
            return []
        homes = (*self.homes, HOME_INSIDE.format(self.owner))
        if any(Path(home).is_relative_to(path) for home in homes):
            why = f"{path} is or holds the home, which no job in an environment sees"
        elif not environment.shows_submission_directory:
            why = f"profile or site show no job in an environment {path}"
        elif any(ord(char) < ord(" ") or ord(char) == 127 for char in self.path):
            why = "the directory's name has control characters"
        else:
            return []
        return [f"{why}: it works in its own copy of the home, and `berth fetch {job}` brings back what it writes"]
