"""The writer of a shown terminal: it sends the screen to the programs of guests.

It is one of the programs of broker/job/guest: Python's standard library alone, and Python 3.8 (`program.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from broker.job.guest.keyboard import TYPED_BYTES, Keyboard
from broker.job.guest.pane import PaneState, TmuxPane

if TYPE_CHECKING:
    from pathlib import Path

FRAME_INTERVAL_S = 0.04
"""Seconds between two looks at a screen that changes without end."""
SCREEN_LOOK_S = 1.0
"""Seconds after which the screen is read without a change, such as for another size."""
NOTICE_MS = "6000"
"""Milliseconds for which tmux shows who has come or gone."""
MAX_GUESTS = 50
MAX_HISTORY_LINES = 2000
"""Lines that have left the screen and are sent at once: tmux's own default limit."""
MAX_QUEUE_BYTES = 1 << 20
"""Bytes that a guest's program may leave unread before it gets no further screens."""
LINE_BYTES = 2 * TYPED_BYTES + 100
"""The longest line of a guest's program."""
ASK_INTERVAL_S = 5.0
"""Seconds between two requests of a guest for the keyboard that the owner sees."""
PAIR_LOOK_S = 0.25
"""The same while a guest may get the keyboard: so soon does that guest's program know."""

_HELLO = re.compile(r"([a-z_][a-z0-9_.-]{0,31})( pair)?")
"""The first line of a guest's program: the guest, and whether the guest may get the keyboard."""


class WatchingGuest:
    """A guest's program that is connected."""

    def __init__(self, user: str, writer: asyncio.StreamWriter, mark: int, *, may_type: bool) -> None:
        self.user = user
        self.may_type = may_type
        """Whether the owner may give them the keyboard."""
        self.asked_at = -ASK_INTERVAL_S
        self.mark = mark
        """The size of the history of which the guest knows."""
        self._writer = writer
        self._last = b""

    def send(self, state: PaneState, rows: list[str], history: list[str]) -> None:
        """Send a screen, unless the program has it or reads too slowly. `history`: the latest lines, newest last."""
        if self._writer.transport.get_write_buffer_size() > MAX_QUEUE_BYTES:
            return
        new = min(state.history - self.mark, len(history))
        frame = {
            "size": [state.columns, state.lines],
            "cursor": [*state.cursor, state.has_cursor],
            "keyboard": state.keyboard,
            "rows": rows,
            "history": history[len(history) - new :],
        }
        self.mark = state.history
        line = json.dumps(frame).encode() + b"\n"
        if line != self._last:
            self._writer.write(line)
            self._last = line


class PaneWriter:
    """The writer of one pane.

    A mark is a size of the history: no line before it may be sent. tmux adds lines at the end of the history, as they
    leave the screen. It takes lines from the beginning (its limit) or from the end (a larger screen). So lines behind a
    mark have been on the screen since the mark was set, if the mark never exceeds the history. This fails when tmux
    wraps the history again, or restores a screen: then all marks move to the end.
    """

    def __init__(self, pane: TmuxPane, first: PaneState) -> None:
        self._pane = pane
        self._state = first
        """The state at the last look."""
        self._mark = first.history
        """The mark of the next guest."""
        self._guests: set[WatchingGuest] = set()
        self._keyboard = Keyboard(pane)
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self, path: Path) -> None:
        """Serve guests on the socket `path` until tmux closes the pipe or ends."""
        self._keyboard.clear()
        server = await asyncio.start_unix_server(self._serve, str(path), limit=LINE_BYTES)
        tasks = [asyncio.ensure_future(each) for each in (self._read_pipe(), self._send_screens())]
        try:
            await self._ended.wait()
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            for guest in list(self._guests):
                self._forget(guest)

    async def _read_pipe(self) -> None:
        loop = asyncio.get_event_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while await reader.read(65536):
            self._changed.set()
        self._ended.set()

    @property
    def _look_interval(self) -> float:
        return PAIR_LOOK_S if self._keyboard.is_offered else SCREEN_LOOK_S

    async def _send_screens(self) -> None:
        looked = -SCREEN_LOOK_S
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._look_interval)
            self._changed.clear()
            began = time.monotonic()
            if not self._guests and began - looked < SCREEN_LOOK_S:
                continue
            looked = began
            try:
                self._send_screen()
            except (OSError, ValueError, subprocess.SubprocessError):
                self._ended.set()  # the pane is gone, or tmux
                return
            await asyncio.sleep(max(0.0, FRAME_INTERVAL_S - (time.monotonic() - began)))

    def _send_screen(self) -> None:
        capture = ("capture-pane", "-p", "-e", "-N", "-t", self._pane.id)
        state, rows = PaneState.read(self._pane, *capture if self._guests else ())
        self._move_marks(state)
        if state.keyboard and not state.is_seen:  # the owner has left, and may not think of it on return
            self._keyboard.take_back(state.keyboard)
        new = max((state.history - guest.mark for guest in self._guests), default=0)
        history = self._read_history(min(new, MAX_HISTORY_LINES)) if new else []
        for guest in self._guests:
            guest.send(state, rows[: state.lines], history)

    def _move_marks(self, state: PaneState) -> None:
        """Take the state of a look, and move the marks to where it allows them."""
        most = state.history
        is_same = state.has_form_of(self._state)
        self._state = state
        self._mark = min(self._mark, most) if is_same else most
        for guest in self._guests:
            guest.mark = min(guest.mark, most) if is_same else most

    def _read_history(self, count: int) -> list[str]:
        """Return the last `count` lines of the history, or none if others may have taken their place since the look."""
        words = ("capture-pane", "-p", "-e", "-t", self._pane.id, "-S", str(-count), "-E", "-1")
        state, lines = PaneState.read(self._pane, *words)
        is_same = state.has_form_of(self._state) and state.history >= self._state.history
        return lines[:count] if is_same else []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a guest's program until it has gone. Of one that only watches, nothing but its first line counts."""
        guest: WatchingGuest | None = None
        try:
            hello = _HELLO.fullmatch((await reader.readline()).decode("ascii", "replace").strip())
            if not hello or len(self._guests) >= MAX_GUESTS:
                return
            guest = WatchingGuest(hello[1], writer, self._mark, may_type=bool(hello[2]))
            self._admit(guest)
            while line := await reader.readline():
                if guest.may_type:
                    self._obey(guest, line)
        except (OSError, ValueError):  # ValueError: a line that is too long, or is none
            pass
        finally:
            if guest in self._guests:
                self._forget(guest)
            writer.close()

    def _admit(self, guest: WatchingGuest) -> None:
        self._guests.add(guest)
        self._changed.set()
        if guest.may_type:
            self._keyboard.join(guest.user)
            self._tell_owner(f"{guest.user} watches this terminal; {self._keyboard.key} gives them the keyboard")
        else:
            self._tell_owner(f"{guest.user} watches this terminal")

    def _forget(self, guest: WatchingGuest) -> None:
        self._guests.discard(guest)
        if guest.may_type:
            self._keyboard.leave(guest.user)
        self._tell_owner(f"{guest.user} no longer watches this terminal")

    def _obey(self, guest: WatchingGuest, line: bytes) -> None:
        """Do what the program of a guest asks for who may get the keyboard. ValueError for another line."""
        word, _, codes = line.decode("ascii").strip().partition(" ")
        if word == "type":
            self._keyboard.type(guest.user, bytes.fromhex(codes))
        elif word == "back":
            self._keyboard.take_back(guest.user)
            self._changed.set()
        elif word == "ask":
            self._ask(guest)
        else:
            raise ValueError(word)

    def _ask(self, guest: WatchingGuest) -> None:
        now = time.monotonic()
        if now - guest.asked_at >= ASK_INTERVAL_S:
            guest.asked_at = now
            self._keyboard.ask(guest.user)
            self._tell_owner(f"{guest.user} asks for the keyboard: {self._keyboard.key} gives it")

    def _tell_owner(self, text: str) -> None:
        """Show a line in the status line of each client of tmux, and the guests' names in the pane's @berth_guests."""
        self._name_guests()
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            clients = self._pane.tmux("list-clients", "-t", self._pane.ask("#{session_id}"), "-F", "#{client_name}")
            for client in clients.splitlines():
                self._tell_client(client, f"berth: {text}")

    def _tell_client(self, client: str, text: str) -> None:
        try:
            self._pane.tmux("display-message", "-d", NOTICE_MS, "-c", client, text)
        except subprocess.CalledProcessError:  # before tmux 3.2, without -d
            self._pane.tmux("display-message", "-c", client, text)

    def _name_guests(self) -> None:
        names = ", ".join(sorted({f"{each.user}{' (pair)' * each.may_type}" for each in self._guests}))
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self._pane.tmux("set-option", "-p", "-t", self._pane.id, "@berth_guests", names)


def run_writer(pane: TmuxPane, path: Path) -> None:
    """Be the writer of a pane, until tmux closes its pipe."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    try:
        asyncio.run(PaneWriter(pane, PaneState.read(pane)[0]).run(path))
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
