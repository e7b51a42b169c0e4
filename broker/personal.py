"""Reaching the controller, and in personal mode starting it: the first command does, and nothing is started by hand."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from broker.client import Client
from broker.configfile import Mode
from broker.errors import ControllerUnavailableError, InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.config import Config

START_WITHIN = 30.0
"""Seconds in which a controller that we start must answer."""


def open_client(config: Config) -> Client:
    """A client for the controller that holds here; in personal mode it is running when this returns.

    ControllerUnavailableError if it cannot be started, with the end of its log.
    """
    client = Client(config.api_socket)
    if config.mode is Mode.PERSONAL and not client.health():
        _start(config, client)
    return client


def _start(config: Config, client: Client) -> None:
    """Start the controller in a session of its own; of several commands at once, one starts it and the others wait."""
    for directory in (config.runtime_dir, config.state_dir):
        make_private(directory)
    log = config.state_dir / "controller.log"
    with (config.runtime_dir / "starting.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if client.health():
            return
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "broker.cli", "controller"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + START_WITHIN
        while not client.health():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-1000:].strip()
                raise ControllerUnavailableError(
                    f"the controller did not start: {tail}", hint=f"its whole log is {log}"
                )
            time.sleep(0.05)


def make_private(directory: Path) -> None:
    """Make a directory ours alone; InvalidInputError for one, or a link, that somebody else made first."""
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700, parents=True)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InvalidInputError(
            f"{directory} must be a directory of yours with mode 0700",
            hint="remove it, or set XDG_RUNTIME_DIR and XDG_STATE_HOME",
        )
