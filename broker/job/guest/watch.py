"""Show a guest the terminals that the session's owner shows: the one command of the roles `watch` and `pair`.

sshd runs it for the guest's key, as the owner, with the guest's name. It copies screens out and carries no input: what
the guest types is compared with the program's own keys and discarded. Only with the role `pair`, and while the owner
has given the keyboard to the guest, it sends what is typed to the writer of the terminal. It ends when the guest's
lease has ended.

It is one of the programs of broker/job/guest: Python's standard library alone, and Python 3.8 (`program.py`).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING, NoReturn

from broker.job.guest.keyboard import TYPED_BYTES
from broker.job.guest.lease import LEASE_LOOK_S, GuestLease, require_terminal, session_title
from broker.job.guest.viewer import (
    ASK,
    END,
    KEYS,
    MAX_KEY_BYTES,
    NEXT,
    QUIT,
    GuestTerminal,
    ScreenFrame,
    ScreenViewer,
    end_group,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAIR = "pair"
MAX_FRAME_BYTES = 8 << 20
RETURN_KEY = b"\x1b[24~"
"""F12: the guest gives the keyboard back."""


class ScreenSource:
    """The connection to the writer of a shown terminal."""

    def __init__(self, path: Path, hello: str) -> None:
        """OSError if nothing listens there."""
        self.path = path
        self.connection = socket.socket(socket.AF_UNIX)
        try:
            self.connection.connect(str(path))
            self.connection.sendall(f"{hello}\n".encode())
            self.connection.setblocking(False)
        except OSError:
            self.connection.close()
            raise
        self._data = b""

    def send(self, line: str) -> None:
        """Send a line. EOFError if the writer does not take it at once: it is not kept for later."""
        data = f"{line}\n".encode()
        try:
            is_sent = self.connection.send(data) == len(data)
        except OSError:
            is_sent = False
        if not is_sent:
            raise EOFError

    def frames(self) -> Iterator[tuple[ScreenFrame, list[str]]]:
        """Yield the frames that have come. EOFError when the terminal is no longer shown."""
        try:
            piece = self.connection.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece or len(self._data) > MAX_FRAME_BYTES:
            raise EOFError
        *lines, self._data = (self._data + piece).split(b"\n")
        for line in lines:
            yield ScreenFrame.parse(line)


def shown_sockets(base: Path) -> list[Path]:
    """Return the sockets of the terminals that are shown, in the order in which tmux has made them."""
    found = [path for path in (base / "node" / "shown").glob("*.sock") if path.stem.isdigit()]
    return sorted(found, key=lambda path: int(path.stem))


class WatchLoop:
    """The loop: screens go out, keys are read, and the lease is looked at."""

    def __init__(self, base: Path, role: str, user: str) -> None:
        self._base = base
        self._user = user
        self._may_type = role == PAIR
        self._hello = f"{user} {PAIR}" if self._may_type else user
        self._lease = GuestLease(base, role, user)
        self._title = session_title()
        self._source: ScreenSource | None = None

    def run(self) -> NoReturn:
        self._check_lease(None)
        terminal = GuestTerminal()
        viewer = ScreenViewer(terminal, self._title, self._user, may_type=self._may_type)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        looked = time.monotonic()
        while True:
            now = time.monotonic()
            if now - looked >= LEASE_LOOK_S:
                looked = now
                self._check_lease(terminal)
                self._lease.mark_use()
            self._find_source(viewer)
            viewer.draw()
            wait = max(0.0, looked + LEASE_LOOK_S - time.monotonic())
            readers: list[int | socket.socket] = [0] if self._source is None else [0, self._source.connection]
            ready, _, _ = select.select(readers, [1] if terminal.unsent else [], [], wait)
            terminal.flush()
            if 0 in ready:
                self._read_key(terminal, viewer)
            if self._source is not None and self._source.connection in ready:
                self._read_frames(self._source, viewer)

    def _check_lease(self, terminal: GuestTerminal | None) -> None:
        problem = self._lease.problem()
        if problem:
            if terminal is not None:
                terminal.restore()
            with contextlib.suppress(OSError):
                os.write(2, f"berth: {self._title}: {problem}\r\n".encode())
            end_group(1)

    def _find_source(self, viewer: ScreenViewer) -> None:
        paths = shown_sockets(self._base)
        if self._source is None:
            for path in paths:
                with contextlib.suppress(OSError):
                    self._source = ScreenSource(path, self._hello)
                    break
        if self._source is not None and self._source.path in paths:
            viewer.place = (paths.index(self._source.path) + 1, len(paths))

    def _next_source(self, viewer: ScreenViewer) -> None:
        """See the next terminal, if there is one."""
        paths = shown_sockets(self._base)
        if self._source is None or len(paths) < 2:
            return
        at = paths.index(self._source.path) + 1 if self._source.path in paths else 0
        with contextlib.suppress(OSError):
            following = ScreenSource(paths[at % len(paths)], self._hello)
            self._source.connection.close()
            self._source = following
            viewer.forget()

    def _read_frames(self, source: ScreenSource, viewer: ScreenViewer) -> None:
        try:
            for frame, history in source.frames():
                viewer.take(frame, history)
        except (EOFError, ValueError, KeyError, TypeError):
            self._lose(source, viewer)

    def _lose(self, source: ScreenSource, viewer: ScreenViewer) -> None:
        source.connection.close()
        self._source = None
        viewer.forget()

    def _read_key(self, terminal: GuestTerminal, viewer: ScreenViewer) -> None:
        """Read what the guest has typed. With the keyboard, it is for the owner's terminal; otherwise act on a key of
        the program, and discard all else.
        """
        try:
            typed = os.read(0, TYPED_BYTES)
        except OSError:
            typed = b""
        if typed and viewer.has_keyboard:
            viewer.scroll(END)
            self._send(viewer, "back" if typed == RETURN_KEY else f"type {typed.hex()}")
            return
        key = KEYS.get(typed) if len(typed) <= MAX_KEY_BYTES else None
        if not typed or key == QUIT:
            terminal.restore()
            end_group(0)
        if key == NEXT:
            self._next_source(viewer)
        elif key == ASK:
            if self._may_type:
                self._send(viewer, "ask")
        elif key is not None:
            viewer.scroll(key)

    def _send(self, viewer: ScreenViewer, line: str) -> None:
        if self._source is not None:
            try:
                self._source.send(line)
            except EOFError:
                self._lose(self._source, viewer)


def run_watch(role: str, user: str, base: Path) -> NoReturn:
    """Be the program of a guest with the role `watch` or `pair`."""
    does = "type in terminals of" if role == PAIR else "watch"
    require_terminal(f"{user} may {does} {session_title()}")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    WatchLoop(base, role, user).run()
