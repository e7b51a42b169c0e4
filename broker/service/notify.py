"""Notifications to systemd from a service of Type=notify, as sd_notify(3) documents them.

Standard library only, because the launcher imports it. Loading this module removes the socket's address from the
environment, so no child process can send notifications for the service.
"""

from __future__ import annotations

import os
import socket
import time

ADDRESS = "NOTIFY_SOCKET"
TIMEOUT_S = 1.0
"""Time for one message while systemd's queue is full. If a message is lost, systemd restarts the service."""

_address = os.environ.pop(ADDRESS, "")


def notify_ready() -> None:
    """Notify systemd that the service has started, or has finished a reload."""
    _notify("READY=1")


def notify_reloading() -> None:
    """Notify systemd that a reload has begun, which ends with `notify_ready`."""
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def notify_stopping() -> None:
    """Notify systemd that the service has begun to stop."""
    _notify("STOPPING=1")


def expose_address() -> None:
    """Restore the socket's address in the environment, for the program that this process will execute by execve(2)."""
    if _address:
        os.environ[ADDRESS] = _address


def _notify(message: str) -> None:
    """Send a message, if a service manager started this process and still listens."""
    if not _address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(TIMEOUT_S)
        try:
            sender.connect("\0" + _address[1:] if _address.startswith("@") else _address)
            sender.send(message.encode("ascii"))
        except OSError:
            return  # systemd does not wait for the message: the unit has another Type=, or the socket is gone
