"""Wait for the site's controller while systemd starts it, as after `systemctl restart berth`."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

UNIT = "berth.service"
PASSING_STATES = frozenset({"activating", "deactivating", "reloading"})
"""States of a unit that another one follows by itself: ActiveState in org.freedesktop.systemd1(5)."""
SYSTEMCTL_TIMEOUT_S = 5.0
ASK_INTERVAL_S = 1.0
"""Time between two questions to systemd. A question costs a process."""
CONNECT_INTERVAL_S = 0.1
QUIET_S = 2.0
"""Time after which the command says why it waits."""


def wait_for_start(api_socket: Path, limit_s: float, tell: Callable[[str], None]) -> None:
    """Return when the controller accepts connections, when nothing starts it, or after `limit_s`.

    `tell` gets one line for the user, if it takes longer than a moment.
    """
    began = time.monotonic()
    has_told, ask_at = False, began
    while not _accepts(api_socket) and (now := time.monotonic()) - began < limit_s:
        if now >= ask_at:
            if _state() not in PASSING_STATES:
                return  # it may have become active just now: the caller tries once more
            ask_at = time.monotonic() + ASK_INTERVAL_S
        if not has_told and now - began >= QUIET_S:
            tell(f"waiting for the controller, which is being started (at most {limit_s:g} s)")
            has_told = True
        time.sleep(CONNECT_INTERVAL_S)


def _accepts(api_socket: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(SYSTEMCTL_TIMEOUT_S)
        try:
            connection.connect(str(api_socket))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
    return True


def _state() -> str:
    """Ask systemd for the state of the unit; empty where there is no systemd."""
    command = ["systemctl", "show", "--property=ActiveState", "--value", UNIT]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=SYSTEMCTL_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
