"""Connect to the controller; in personal mode, start it if it does not run."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from broker.client.client import Client
from broker.config.directories import REMEDIES, check_private, make_private
from broker.config.file import Mode
from broker.errors import BerthError, ControllerUnavailableError, from_reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.config.settings import Config

START_TIMEOUT_S = 120.0
"""Time for a started controller to answer; it may have to wait for the end of its predecessor. The start takes a
second, and half a minute on a busy login node with the home on NFS. A controller that exits is noticed at once."""

LOG_LIMIT_BYTES = 2**20
"""Size of the log above which the next controller truncates it."""


def open_client(config: Config, wait_for_start: Callable[[Path], None] = lambda _: None) -> Client:
    """Return a client of the controller. In site mode, `wait_for_start` is called if no controller listens.

    In personal mode, the controller runs on return, and calls start it again if it has exited: it exits when idle.
    ControllerUnavailableError if it cannot be started, or the error that the controller printed.
    """
    if config.mode is not Mode.PERSONAL:
        return Client(config.api_socket, revive=lambda: wait_for_start(config.api_socket))
    make_private(config)
    client = Client(config.api_socket, revive=functools.partial(_start, config))
    if not Client(config.api_socket).health():
        _start(config)
    return client


def passive_client(config: Config) -> Client:
    """Return a client that starts no controller; InvalidInputError if the socket could be another user's."""
    if config.mode is Mode.PERSONAL and config.runtime_dir.exists():
        check_private(config.runtime_dir, REMEDIES["runtime_dir"])
    return Client(config.api_socket)


def _start(config: Config) -> None:
    """Start the controller in its own process session. Of several commands at once, one starts it; the others wait."""
    make_private(config)
    client = Client(config.api_socket)
    with (config.runtime_dir / "starting.lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if client.health():
            return
        log = config.state_dir / "controller.log"
        with log.open("wb" if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES else "ab") as output:
            before = output.tell()
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "broker.cli", "--json", "controller"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not client.health():
            if process.poll() is not None:
                raise _start_error(log, before)
            if time.monotonic() > deadline:
                raise ControllerUnavailableError(
                    f"the controller has not answered within {START_TIMEOUT_S:g} s and is still starting",
                    hint=f"try again shortly; the controller's log is {log}",
                )
            time.sleep(0.02)


def _environment() -> dict[str, str]:
    """Return this process's environment with absolute paths, for another working directory."""
    environment = dict(os.environ)
    if environment.get("BERTH_CONFIG"):
        environment["BERTH_CONFIG"] = os.path.abspath(environment["BERTH_CONFIG"])  # noqa: PTH100 - Path.resolve would follow links
    return environment


def _start_error(log: Path, before: int) -> BerthError:
    """Return the error of a controller that did not start: its last line is an error in the form of `--json`."""
    with log.open("rb") as file:
        file.seek(before)
        output = file.read().decode(errors="replace").strip()
    with contextlib.suppress(ValueError, LookupError, TypeError):
        error = json.loads(output.splitlines()[-1])["error"]
        return from_reason(error["reason"], error["message"], error["hint"])
    return ControllerUnavailableError(
        f"the controller did not start: {output[-1000:] or 'no output'}", hint=f"its log is {log}"
    )
