"""Reaching the controller, and in personal mode starting it: the first command does, and nothing is started by hand."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from broker.client import Client
from broker.configfile import Mode
from broker.errors import BerthError, ControllerUnavailableError, InvalidInputError, from_reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from broker.config import Config

START_WITHIN = 30.0
"""Seconds in which a controller that we start must answer; it may have to wait for its predecessor to end."""

LOG_LIMIT = 2**20
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


def make_private(config: Config) -> None:
    """Make the runtime and state directories ours alone.

    InvalidInputError for one that somebody else made first, or may write to: what is in it could not be believed.
    """
    for setting, remedy in _REMEDIES.items():
        directory: Path = getattr(config, setting)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:
            pass  # not a directory: said below
        except OSError as error:
            raise InvalidInputError(f"cannot make {directory}: {error.strerror}", hint=remedy) from error
        _check_private(directory, remedy)


_REMEDIES = {
    "runtime_dir": "set XDG_RUNTIME_DIR, or runtime_dir in ~/.config/berth/config.yaml, to a directory of yours on "
    "this machine; whoever made this one may be up to something",
    "state_dir": "set XDG_STATE_HOME, or state_dir in ~/.config/berth/config.yaml, to a directory of yours",
}


def _check_private(directory: Path, remedy: str) -> None:
    """Accept a directory, or a link of ours to one, that belongs to us and that nobody else may write to; lock the
    others out of it.
    """
    for status in (directory.lstat(), directory.stat() if directory.exists() else None):
        if status is None or not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            raise InvalidInputError(f"{directory} is not a directory", hint=remedy)
        if status.st_uid != os.getuid():
            raise InvalidInputError(f"{directory} belongs to somebody else", hint=remedy)
    mode = stat.S_IMODE(directory.stat().st_mode)
    if mode & 0o022:
        raise InvalidInputError(f"others may write to {directory} (mode {mode:04o})", hint=remedy)
    if mode & 0o055:
        directory.chmod(0o700)


def _start(config: Config) -> None:
    """Start the controller in a session of its own; of several commands at once, one starts it and the others wait."""
    make_private(config)
    client = Client(config.api_socket)
    with (config.runtime_dir / "starting.lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if client.health():
            return
        log = config.state_dir / "controller.log"
        with log.open("wb" if log.exists() and log.stat().st_size > LOG_LIMIT else "ab") as output:
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
        deadline = time.monotonic() + START_WITHIN
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
