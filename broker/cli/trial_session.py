"""The session in which a version of a profile is tested: its start, commands in it, its stop and its removal."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from broker.errors import BerthError, ConflictError, ControllerUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker.cli.context import Invocation
    from broker.schema.sessions import SessionView
    from profiles.image.store import Image

Answer = TypeVar("Answer")

SESSION_PREFIX = "profile-test-"
"""Begins the name of the session of a test; 12 digits of the image's digest follow."""
KEPT_OUTPUT_BYTES = 16 * 1024
"""The end of a command's output that is kept while it runs."""
SHORT_LIMIT_S = 60.0
"""For commands of the test itself."""
CONNECT_LIMIT_S = 30.0
"""Seconds that a command may take beyond its time limit, for ssh."""
SSH_OPTIONS = ("-T", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes")


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """The end of a command in the session."""

    code: int | None
    """None: it ran longer than its time limit."""
    output: str
    """The end of its output and errors."""


def trial_name(image: Image) -> str:
    """Return the name of the session in which this image is tested."""
    return SESSION_PREFIX + image.digest.removeprefix("sha256:")[:12]


@contextlib.contextmanager
def trial_lock(name: str) -> Iterator[None]:
    """Keep other tests of the same image by this user away. Raises ConflictError at once during one."""
    import fcntl
    import os

    from broker.config.file import xdg_directory

    folder = xdg_directory("XDG_STATE_HOME", ".local/state") / "berth" / "profile-tests"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                "this image is being tested just now, in another process of yours", hint="wait for its end"
            ) from None
        yield
    finally:
        os.close(descriptor)


class TrialSession:
    """A session of the caller's, made for one test. The lock of its name must be held."""

    def __init__(self, invocation: Invocation, image: Image, owner: str, *, timeout: float | None) -> None:
        self.name = trial_name(image)
        self._invocation = invocation
        self._image = image
        self._owner = owner
        self._timeout = timeout

    def start(self) -> SessionView:
        """Start the session with the profile's own resources, and wait until it is ready.

        BerthError itself, and no class of it, if its job fails; ConflictError if it got another image.
        """
        from broker.cli.wait import until_ready
        from broker.schema.sessions import StartRequest

        image = self._image
        request = StartRequest(profile=f"{self._owner}/{image.name}", version=image.version)
        view = patiently(lambda: self._invocation.client.start(self.name, request))
        view = until_ready(self._invocation, view, timeout=self._timeout)
        if view.digest != image.digest:
            raise ConflictError(f"{self.name} has another image than {image.name}@{image.version}")
        return view

    def stop(self) -> None:
        """Stop the session, and wait until its job has ended."""
        from broker.cli.wait import until_ended

        view = patiently(lambda: self._invocation.client.stop(self.name))
        until_ended(self._invocation, view, timeout=self._timeout)

    def remove(self) -> bool:
        """Stop and delete the session for good. Return False if there is none.

        ConflictError, with nothing changed, for a session of that name that another command has made.
        """
        from broker.cli.dev_session import find_session
        from broker.cli.wait import until_gone
        from broker.schema.states import LIVE, SessionState

        view = patiently(lambda: find_session(self._invocation, self.name))
        if view is None:
            return False
        if view.digest and view.digest != self._image.digest:
            raise ConflictError(
                f"you have a session {self.name}, which is not of {self._image.name}@{self._image.version}",
                hint=f"`berth rename {self.name} NEW` frees the name for the test",
            )
        if view.state in LIVE or view.state is SessionState.CHANGING:
            self.stop()
        if view.state is not SessionState.DELETING:
            view = patiently(lambda: self._invocation.client.delete(self.name, purge=True))
        until_gone(self._invocation, view)
        return True

    def run(self, script: str, *, limit_s: float = SHORT_LIMIT_S) -> CommandEnd:
        """Run a script with bash, in a login shell, for at most `limit_s` seconds. BerthError without a connection."""
        seconds, inside = f"{limit_s:g}", f"/bin/bash -lc {shlex.quote(script)}"
        guarded = f"if command -v timeout >/dev/null 2>&1; then exec timeout -k 5 {seconds} {inside}; fi; exec {inside}"
        argv = self._ssh([*SSH_OPTIONS], ["--", guarded])
        began = time.monotonic()
        end = run_bounded(argv, limit_s=limit_s + CONNECT_LIMIT_S)
        has_timed_out = end.code in {124, 137} and time.monotonic() - began >= limit_s
        return CommandEnd(None, end.output) if has_timed_out else end

    def copy(self) -> CommandEnd:
        """Copy a file there and back with sftp. The code is 0 if it came back as it was."""
        with tempfile.TemporaryDirectory(prefix="berth-test-") as folder:
            there, back = Path(folder) / "there", Path(folder) / "back"
            content = bytes(range(256)) * 256
            there.write_bytes(content)
            name = f".{self.name}"
            batch = Path(folder) / "batch"
            batch.write_text(f"put {there} {name}\nget {name} {back}\nrm {name}\n")
            argv = self._ssh([*SSH_OPTIONS[1:]], [])
            end = run_bounded(["sftp", *argv[1:-1], "-b", str(batch), argv[-1]], limit_s=SHORT_LIMIT_S)
            if end.code == 0 and (not back.is_file() or back.read_bytes() != content):
                return CommandEnd(1, "the file came back with other content")
            return end

    def _ssh(self, before: Sequence[str], after: Sequence[str]) -> list[str]:
        from broker.cli.ssh_process import ssh_command

        return patiently(lambda: ssh_command(self._invocation, self.name, before=before, after=after)[0])


def patiently(call: Callable[[], Answer]) -> Answer:
    """Return the answer of a call that may be repeated; wait while the controller restarts, as other waits do."""
    from broker.cli.progress import OUTAGE_S

    give_up = time.monotonic() + OUTAGE_S
    while True:
        try:
            return call()
        except ControllerUnavailableError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)


def run_bounded(argv: Sequence[str], *, limit_s: float) -> CommandEnd:
    """Run a program without input, keep the end of what it says, and kill it after `limit_s` seconds."""
    kept = bytearray()
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
    except OSError as error:
        raise BerthError(f"cannot run {argv[0]}: {error.strerror}", hint="install OpenSSH's client") from error
    with process:
        assert process.stdout is not None
        reader = threading.Thread(target=_keep_end, args=(process.stdout, kept), daemon=True)
        reader.start()
        code: int | None = None
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            reader.join(5)
    return CommandEnd(code, bytes(kept).decode(errors="replace"))


def _keep_end(stream: IO[bytes], kept: bytearray) -> None:
    with contextlib.suppress(OSError, ValueError):
        while piece := stream.read(1 << 16):
            kept += piece
            del kept[:-KEPT_OUTPUT_BYTES]
