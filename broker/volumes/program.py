"""Run a program as the user of this process. The user can make it print anything, so its output is bounded."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from typing import TYPE_CHECKING

from broker.volumes.errors import VolumeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_OUTPUT_BYTES = 2**20
"""Limit for each output of a program, unless its caller allows more."""
_PIECE_BYTES = 1 << 16


def run_program(
    argv: Sequence[str],
    *,
    timeout: float | None,
    most: int = MAX_OUTPUT_BYTES,
    given: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, with `given` as its standard input.

    VolumeError `files` if its standard output is longer than `most` bytes, subprocess.TimeoutExpired after `timeout`
    seconds: it is killed then. Of its standard error the last OUTPUT_BYTES are kept.
    """
    with open(os.memfd_create("input"), "w+b") as standard_input:  # noqa: PTH123 - a descriptor
        standard_input.write(given)
        standard_input.seek(0)
        process = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=standard_input,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
        )
    with process:
        try:
            output, errors = _read(process, most, timeout)
            return subprocess.CompletedProcess(argv, process.wait(timeout), output, errors)
        except BaseException:
            process.kill()
            raise


def _read(process: subprocess.Popen[bytes], most: int, timeout: float | None) -> tuple[bytes, bytes]:
    """Return standard output and error once both have ended."""
    output, errors = bytearray(), bytearray()
    deadline = None if timeout is None else time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if not ready and deadline is not None and timeout is not None:
                raise subprocess.TimeoutExpired(process.args, timeout)
            for key, _ in ready:
                piece = os.read(key.fd, _PIECE_BYTES)
                if not piece:
                    selector.unregister(key.fileobj)
                (output if key.fileobj is process.stdout else errors).extend(piece)
            del errors[:-MAX_OUTPUT_BYTES]
            if len(output) > most:
                name = os.fspath(process.args[0]) if isinstance(process.args, list) else "a program"
                raise VolumeError("files", f"{name} printed more than {most >> 10} KiB")
    return bytes(output), bytes(errors)
