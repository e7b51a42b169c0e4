"""The controller's clock is the only one that its decisions follow."""

from __future__ import annotations

import ast
from pathlib import Path

import broker.controller

OWN_TIME = {
    "clock.py": "is the clock",
    "credentials/guests.py": "writes a date for sshd, and reads no time",
    "api/request_limits.py": "measures how long an answer took",
    "launcher_client/client.py": "measures how long a call took",
    "process.py": "waits for another process, and for a time without requests",
    "registry/lock.py": "needs a clock that runs while the machine sleeps",
    "sessions/pending.py": "limits how long a client waits for its answer",
}
"""The modules of the controller that read the time themselves, with the reason."""


def test_what_decides_by_the_time_asks_the_controllers_clock() -> None:
    rooms = Path(broker.controller.__file__).parent
    reads = {
        path.relative_to(rooms).as_posix()
        for path in rooms.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(name.name in {"time", "datetime"} for name in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"})
    }
    assert reads == OWN_TIME.keys()
