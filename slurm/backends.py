"""Choose the connection to Slurm: pyslurm where it works, Slurm's own commands everywhere else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from slurm.command_scheduler import CommandScheduler
from slurm.pyslurm_scheduler import WORKER_ARGV, PyslurmScheduler
from slurm.scheduler import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm.scheduler import Scheduler

Backend = Literal["auto", "pyslurm", "commands"]

log = logging.getLogger(__name__)


async def open_scheduler(
    backend: Backend = "auto",
    *,
    timeout: float = 10.0,  # noqa: ASYNC109 - of each question to come, not of this call
    worker_argv: Sequence[str] = WORKER_ARGV,
    run_prefix: Sequence[str] = (),
) -> Scheduler:
    """Open a connection to Slurm whose every call takes at most `timeout` seconds. The caller must close() it.

    `auto` asks pyslurm for Slurm's version, and uses the commands if there is no answer: because pyslurm is not
    installed or was built for another Slurm, or because Slurm does not answer at the moment. `worker_argv` starts the
    process of pyslurm, `run_prefix` precedes each command.
    """
    commands = CommandScheduler(run_prefix, timeout=timeout)
    if backend == "commands":
        return commands
    pyslurm = PyslurmScheduler(worker_argv, timeout=timeout)
    if backend == "pyslurm":
        return pyslurm
    try:
        await pyslurm.version()
    except NoAnswer as error:
        await pyslurm.close()
        log.info("asking Slurm by its commands: %s", error)
        return commands
    log.info("asking Slurm by pyslurm")
    return pyslurm
