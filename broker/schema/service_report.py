"""The report of a session on one of its services: lines of `broker/job/service`, such as `state ready`.

The module imports no validation library, so that the command line loads it quickly.
"""

from __future__ import annotations

import re
from collections import deque

MAX_LINES, MAX_LINE_CHARS = 20, 500
"""As broker/job/service/attach.sh shows of a service's output."""
SERVICE_STATES = ("starting", "ready", "waiting", "failed", "stopped")
"""States of a service that a session reports; `waiting` is before it starts again."""
_SOCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}\.sock")


class ServiceReport:
    """The state of a service, by the lines that were read so far. A login's own files may write others."""

    def __init__(self, service: str, state: str = "starting") -> None:
        self.service = service
        self.state = state
        """One of SERVICE_STATES, unless the session has another version."""
        self.state_detail = ""
        """Such as the seconds for which the service waits."""
        self.lines: deque[str] = deque(maxlen=MAX_LINES)
        """The last lines of its output since the state changed."""
        self.socket = f"{service}.sock"
        """The file name of its socket in the session."""
        self.needs_new_tunnel = False
        """Whether this tunnel may not reach the socket, because the service was defined later."""
        self.refusal = ""
        """The reason for which the session does not start the service."""

    def read(self, line: bytes) -> None:
        word, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
        match word:
            case "state":
                self.state, _, self.state_detail = text.partition(" ")
                self.lines.clear()
            case "output":
                self.lines.append(text[:MAX_LINE_CHARS])
            case "socket" if _SOCKET.fullmatch(text):
                self.socket = text
            case "reconnect":
                self.needs_new_tunnel = True
            case "refused":
                self.refusal = text[:MAX_LINE_CHARS] or "without a reason"
            case _:
                pass  # a later release may report more
