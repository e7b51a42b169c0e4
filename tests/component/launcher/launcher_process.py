"""A real launcher process for tests, with an sbatch made for the occasion."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
from pathlib import Path
from typing import IO, TYPE_CHECKING

from broker.controller.launcher_client.client import LauncherClient
from tests.deadlines import DEADLINE_S
from tests.fakes.launcher import PYTHON

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ID = "01jd0000000000000000000000"
ME = pwd.getpwuid(os.getuid()).pw_name
ROOT = os.getuid() == 0
USER = "nobody" if ROOT else ME
"""The account that the launcher acts for: another one than root's for root, the caller's own for all others."""


@contextlib.asynccontextmanager
async def running(
    storage: Path,
    sbatch: str = "exit 1",
    *,
    script: str = "/session.sh",
    log: IO[bytes] | None = None,
    minimum_uid: int = 1000,
    module: str = "broker.launcher.server",
    **environment: str,
) -> AsyncIterator[tuple[LauncherClient, int]]:
    """A launcher whose sbatch is the given shell script, and its process id. Without `script` it submits its own.

    `module`: the launcher's, or one that changes it first.
    """
    program = storage / "sbatch"
    program.write_text(f"#!/bin/sh\n{sbatch}\n")
    program.chmod(0o755)
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        "-m",
        module,
        f"--serve-fd={theirs.fileno()}",
        f"--storage={storage}/{{user}}",
        f"--sbatch={program}",
        f"--session-script={script}",
        f"--minimum-uid={minimum_uid}",
        pass_fds=[theirs.fileno()],
        cwd=Path(__file__).parents[3],
        env=os.environ | environment,
        stderr=log,
    )
    theirs.close()
    async with asyncio.timeout(DEADLINE_S), LauncherClient(ours, process) as launcher:
        yield launcher, process.pid
