"""Builds in Slurm jobs: the same command, which srun(1) runs on a node.

srun waits for the job, shows the output as it comes, passes interruptions on, and ends with the command's exit code.
"""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from broker.errors import BerthError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.cli.context import Invocation

JOB_NAME = "berth-build"
_FIXED = ("--nodes=1", "--ntasks=1", "--input=none", "--unbuffered", "--quit-on-interrupt")
_HINT = "`berth profile build FILE --job --mem=4G --time=1:00:00`; sbatch(1) explains the options"


def job_options_of(invocation: Invocation, words: Sequence[str]) -> list[str]:
    """Return the options of a build's job: those of the site, of SBATCH_ variables, and of the command line.

    InvalidInputError for an option that jobs of Berth cannot have.
    """
    from broker.cli.resources import parse_resources
    from broker.user_input import default_options
    from slurm.sbatch import OptionError, merge_options

    own = parse_resources(words, hint=_HINT)
    try:
        return merge_options(merge_options(invocation.config.profiles.build_options, default_options(os.environ)), own)
    except OptionError as error:
        raise InvalidInputError(str(error), hint=_HINT) from error


def build_in_job(words: Sequence[str], options: Sequence[str]) -> NoReturn:
    """Become srun, which runs `berth profile build` with these words in a job. BerthError if there is no srun."""
    program = shutil.which("srun")
    if program is None:
        raise BerthError("srun is not installed here, which runs builds in jobs", hint="--here builds on this machine")
    # Without those of a surrounding job: in it, srun would make a step instead of a job.
    kept = [name for name in os.environ if not name.startswith("SLURM_") or name == "SLURM_CONF"]
    environment = {name: os.environ[name] for name in kept}
    own = str(Path(sys.argv[0]).absolute())
    named = [] if any(option.startswith("--job-name=") for option in options) else [f"--job-name={JOB_NAME}"]
    command = [own, "profile", "build", *words, "--here"]
    sys.stdout.flush()
    os.execve(program, ["srun", *_FIXED, *named, *options, *command], environment)  # noqa: S606 - no shell is wanted
