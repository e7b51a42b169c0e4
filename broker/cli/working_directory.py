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
"""The root and system directories, which both the node and the image have; as in batch.sh."""
HOME_INSIDE = "/home/{}"


@dataclass(frozen=True, slots=True)
class WorkingDirectory:
    """The working directory that the user requests of sbatch."""

    path: str
    homes: tuple[str, ...]
    """The user's home directory, as in the account and with links resolved."""
    owner: str

    @classmethod
    def of(cls, line: CommandLine, script: bytes) -> WorkingDirectory:
        """Return the directory of `--chdir` on the command line or in the script; without it, the current directory.

        `path` is absolute and without links; empty if the directory cannot be read.
        """
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
        """Return a remark if the job works in its own copy; none if it works in the node's directory."""
        path = Path(self.path)
        if not self.path:
            return []
        if SYSTEMS_OWN.fullmatch(self.path):
            return [f"the job works in the environment's own {path}, which is deleted at the job's end"]
        if any(path.is_relative_to(bind.split(":")[0]) for bind in environment.binds):
            return []
        homes = (*self.homes, HOME_INSIDE.format(self.owner))
        if any(Path(home).is_relative_to(path) for home in homes):
            why = f"jobs in an environment do not see the home of the login node, which is in {path}"
        elif not environment.shows_submission_directory:
            why = f"the profile or the site does not allow jobs in an environment to see {path}"
        elif any(ord(char) < ord(" ") or ord(char) == 127 for char in self.path):
            why = "the directory's name has control characters"
        else:
            return []
        return [f"{why}; the job works in its own copy of the home, and `berth fetch {job}` copies its output"]
