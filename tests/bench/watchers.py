"""Guests who watch a session until their access ends. Runs on the login node, as a guest.

    watchers.py OWNER.NAME COUNT

Prints `ready` when each of COUNT terminals shows a terminal of the owner's. When all have ended, it prints a JSON list
of the times at which they did, in seconds since the epoch.
"""

from __future__ import annotations

import json
import os
import pty
import selectors
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 120.0


def main(session: str, count: str) -> None:
    terminals = [_open_terminal(session) for _ in range(int(count))]
    with selectors.DefaultSelector() as selector:
        for descriptor in terminals:
            selector.register(descriptor, selectors.EVENT_READ, bytearray())
        _read(selector, lambda: all(f"{session}: terminal".encode() in key.data for key in selector.get_map().values()))
        print("ready", flush=True)
        ends = _read(selector, lambda: not selector.get_map())
    print(json.dumps(ends))


def _open_terminal(session: str) -> int:
    pid, descriptor = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp("berth", ["berth", "ssh", session])  # noqa: S606 - without a shell
    return descriptor


def _read(selector: selectors.BaseSelector, is_done: Callable[[], bool]) -> list[float]:
    """Read what all terminals show until `is_done` is true; return the times at which some have ended."""
    ends: list[float] = []
    limit = time.monotonic() + LIMIT_S
    while not is_done():
        if time.monotonic() > limit:
            shown = [bytes(key.data[-300:]).decode(errors="replace") for key in selector.get_map().values()]
            sys.exit(f"the terminals show {shown}")
        for key, _ in selector.select(1):
            try:
                content = os.read(key.fd, 65536)
            except OSError:  # EIO: the other side is closed
                content = b""
            if content:
                key.data.extend(content)
            else:
                selector.unregister(key.fd)
                ends.append(time.time())
    return ends


if __name__ == "__main__":
    main(*sys.argv[1:])
