"""Connect to the controller; in personal mode, start it if it does not run. Nothing is started by hand."""

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
from broker.config.directories import _REMEDIES, _check_private, make_private
from broker.config.file import Mode
from broker.errors import BerthError, ControllerUnavailableError, from_reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.config.settings import Config

START_TIMEOUT_S = 30.0
"""Seconds in which a controller that we start must answer; it may have to wait for its predecessor to end."""

LOG_LIMIT_BYTES = 2**20
"""Bytes; a log that has grown beyond it begins anew with the next controller."""


def open_client(config: Config, wait_for_start: Callable[[Path], None] = lambda _: None) -> Client:
    """A client for the controller that holds here. In site mode, `wait_for_start` is called if no controller listens.

    In personal mode the controller is running when this returns, and a call that finds it gone starts it again: it
    leaves when idle. ControllerUnavailableError if it cannot be started, or what the controller itself said.
    """
    if config.mode is not Mode.PERSONAL:
        return Client(config.api_socket, revive=lambda: wait_for_start(config.api_socket))
    make_private(config)
    client = Client(config.api_socket, revive=functools.partial(_start, config))
    if not Client(config.api_socket).health():
        _start(config)
    return client


def passive_client(config: Config) -> Client:
    """A client that starts nothing; InvalidInputError if somebody else could be behind the socket."""
    if config.mode is Mode.PERSONAL and config.runtime_dir.exists():
        _check_private(config.runtime_dir, _REMEDIES["runtime_dir"])
    return Client(config.api_socket)


def _start(config: Config) -> None:
    """Start the controller in a session of its own; of several commands at once, one starts it and the others wait."""
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
            if process.poll() is not None or time.monotonic() > deadline:
                raise _why(log, before)
            time.sleep(0.02)


def _environment() -> dict[str, str]:
    """Ours, with paths that hold from another working directory."""
    environment = dict(os.environ)
    if environment.get("BERTH_CONFIG"):
        environment["BERTH_CONFIG"] = os.path.abspath(environment["BERTH_CONFIG"])  # noqa: PTH100 - Path.resolve would follow links
    return environment


def _why(log: Path, before: int) -> BerthError:
    """What the controller that did not start said: its last line is an error as `--json` prints it."""
    with log.open("rb") as file:
        file.seek(before)
        said = file.read().decode(errors="replace").strip()
    with contextlib.suppress(ValueError, LookupError, TypeError):
        error = json.loads(said.splitlines()[-1])["error"]
        return from_reason(error["reason"], error["message"], error["hint"])
    return ControllerUnavailableError(
        f"the controller did not start: {said[-1000:] or 'it said nothing'}", hint=f"its whole log is {log}"
    )
