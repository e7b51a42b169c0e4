"""The log of a service: to systemd's journal if standard error is connected to it, otherwise as text.

Each record is one journal entry with its priority and the name of the process (ADR 117), in the native protocol
(systemd.io/JOURNAL_NATIVE_PROTOCOL). If the journal does not accept an entry, it goes to standard error with the
prefixes of sd-daemon(3).
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import sys
from pathlib import Path

from broker.service import log_limit

SOCKET = Path("/run/systemd/journal/socket")
FORMAT = "%(levelname)s %(name)s: %(message)s"
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Levels of logging and priorities of syslog(3), the highest first. Lower levels have priority DEBUG."""
DEBUG = 7
ERROR = 3
STDERR_FD = 2

_identifier = "berth"


def configure_logging(identifier: str) -> None:
    """Log from INFO on, with the limits of log_limit; in the journal under the name `identifier`."""
    global _identifier  # noqa: PLW0603 - the name of this process
    _identifier = identifier
    handler: logging.Handler = JournalHandler() if is_connected() else logging.StreamHandler(sys.stderr)
    logging.basicConfig(level=logging.INFO, format=FORMAT, handlers=[handler])
    log_limit.install_log_limit()


def is_connected(descriptor: int = STDERR_FD) -> bool:
    """Whether systemd has connected the descriptor to the journal: $JOURNAL_STREAM of systemd.exec(5).

    The variable alone is no proof: a child process inherits it, but may have another standard error.
    """
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def write_entry(text: str, priority: int) -> None:
    """Write one entry to the journal; if that fails, write it to standard error, each line with the priority.

    Lines that standard error does not accept at once are lost: a journal that hangs must not block the process.
    """
    fields = {"MESSAGE": text, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": _identifier}
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(b"".join(_field(*each) for each in fields.items()), str(SOCKET))
    except OSError:  # journald is restarted, its queue is full, or the entry is longer than a datagram
        lines = "".join(f"<{priority}>{line}\n" for line in text.splitlines())
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [STDERR_FD], [], 0)[1]:
                sys.stderr.write(lines)
                sys.stderr.flush()


class JournalHandler(logging.Handler):
    """A handler of `logging` for the journal."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            priority = next((each for level, each in PRIORITIES if record.levelno >= level), DEBUG)
            write_entry(self.format(record), priority)
        except Exception:  # noqa: BLE001 - as every handler of logging
            self.handleError(record)


def _field(name: str, value: str) -> bytes:
    """Encode a field: as a line, or with its length where the value has several lines."""
    data = value.encode(errors="replace")
    if b"\n" in data:
        return b"%s\n%s%s\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%s=%s\n" % (name.encode(), data)
