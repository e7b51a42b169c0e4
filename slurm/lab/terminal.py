"""A command in a node with a terminal of that node: job control, window size and `tty` work as after a login."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import tty
from pathlib import Path
from typing import TYPE_CHECKING

from slurm.lab.enter import passwd_entry
from slurm.lab.errors import LabError
from slurm.lab.processes import init_pid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slurm.lab.paths import LabPaths

TTY_GID = 5
"""Debian's group `tty`."""

END_OF_INPUT = b"\x04"
"""The byte of Ctrl-D."""

TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
"""ioctl_tty(2): a new terminal's number, and its lock. Python's termios does not have them."""


def run_on_terminal(argv: Sequence[str], place: LabPaths, node: str, user: str) -> int:
    """Run `argv`, made by exec_argv for this node and user, on a new terminal; return its code as a shell would."""
    pid = init_pid(place, node)
    if pid is None:
        raise LabError(f"node {node} is not up")
    master, slave = _open(pid, int(passwd_entry(pid, user)[2]))
    _copy_size(master)
    signal.signal(signal.SIGWINCH, lambda *_: _copy_size(master))
    process = subprocess.Popen(["setsid", "--ctty", "--wait", *argv], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    before = termios.tcgetattr(0) if os.isatty(0) else None
    try:
        if before is not None:
            tty.setraw(0)
        _relay(master)
    finally:
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)
    code = process.wait()
    return code if code >= 0 else 128 - code


def _open(pid: int, uid: int) -> tuple[int, int]:
    """Return a pair from the node's own devpts, which is reached through its init."""
    devpts = Path(f"/proc/{pid}/root/dev/pts")
    master = os.open(devpts / "ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, struct.pack("i", 0)))[0]
    slave = os.open(devpts / str(number), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    os.fchown(slave, uid, TTY_GID)
    return master, slave


def _copy_size(master: int) -> None:
    if os.isatty(0):
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))


def _relay(master: int) -> None:
    """Copy in both directions until the last user of the terminal has closed it."""
    sources = [master, 0]
    while True:
        ready, _, _ = select.select(sources, [], [])
        if master in ready:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: no process has the terminal open
                return
            os.write(sys.stdout.fileno(), data)
        if 0 in ready:
            data = os.read(0, 65536)
            if data:
                os.write(master, data)
            else:
                os.write(master, END_OF_INPUT)
                sources.remove(0)
