"""Show a terminal of the session to guests: the owner's command `berth-show`, and the writer that it starts.

The terminal is a pane of the owner's tmux. tmux pipes the pane's output to the writer (`pipe-pane`), for which it only
means that the screen has changed: the writer then reads the screen from tmux (`capture-pane`) and sends it to the
guests' programs, which are connected to its socket. It reads one line of each, with the guest's name, and nothing else:
no byte of a guest can reach tmux.

The session's script carries this program, and the Python of the session's image runs it: it imports nothing but the
standard library, and has to run with Python 3.8.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

FRAME_INTERVAL_S = 0.04
"""Seconds between two looks at a screen that changes without end."""
LOOK_INTERVAL_S = 1.0
"""Seconds after which the screen is read without a change, such as for another size."""
START_LIMIT_S = 10.0
"""Seconds in which the writer must listen."""
TMUX_LIMIT_S = 5.0
"""Seconds in which tmux must answer."""
NOTICE_MS = "6000"
"""Milliseconds for which tmux shows who has come or gone."""
MAX_GUESTS = 50
MAX_HISTORY_LINES = 2000
"""Lines that have left the screen and are sent at once: tmux's own default limit."""
MAX_QUEUE_BYTES = 1 << 20
"""Bytes that a guest's program may leave unread before it gets no further screens."""
HELLO_BYTES = 200

_STATE = "#{pane_width} #{pane_height} #{cursor_x} #{cursor_y} #{cursor_flag} #{alternate_on} #{history_size}"
_PANE = re.compile(r"%[0-9]{1,9}")
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")


class TmuxPane(NamedTuple):
    """A pane of the owner's tmux server."""

    server: str
    """The path of the server's socket."""
    id: str

    def tmux(self, *words: str) -> str:
        """Return the output of a command of tmux. OSError or SubprocessError if it fails."""
        done = subprocess.run(
            ["tmux", "-S", self.server, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TMUX_LIMIT_S,
            check=True,
        )
        return done.stdout.decode("utf-8", "replace")

    def ask(self, form: str) -> str:
        return self.tmux("display-message", "-p", "-t", self.id, form).strip()

    def socket(self, base: Path) -> Path:
        return base / "node" / "shown" / f"{self.id[1:]}.sock"


class PaneState(NamedTuple):
    """The state of a pane, without its content."""

    columns: int
    lines: int
    cursor: tuple[int, int]
    """Column and line, from 0."""
    has_cursor: bool
    is_alternate: bool
    """Whether the pane is on its alternate screen."""
    history: int
    """Lines that have left the screen and are kept."""

    @classmethod
    def read(cls, pane: TmuxPane, *command: str) -> tuple[PaneState, list[str]]:
        """Return the state, and the lines that `command` of tmux prints at the same moment. Raises as TmuxPane.tmux."""
        more = (";", *command) if command else ()
        state, *lines = pane.tmux("display-message", "-p", "-t", pane.id, _STATE, *more).split("\n")
        columns, rows, x, y, has_cursor, is_alternate, history = (int(each or 0) for each in state.split(" "))
        return cls(columns, rows, (x, y), bool(has_cursor), bool(is_alternate), history), lines

    def has_form_of(self, other: PaneState) -> bool:
        """Whether size and kind of screen are the same: tmux moves and wraps lines of the history when they change."""
        return (self.columns, self.lines, self.is_alternate) == (other.columns, other.lines, other.is_alternate)


class WatchingGuest:
    """A guest's program that is connected."""

    def __init__(self, user: str, writer: asyncio.StreamWriter, mark: int) -> None:
        self.user = user
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
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()

    async def run(self, path: Path) -> None:
        """Serve guests on the socket `path` until tmux closes the pipe or ends."""
        server = await asyncio.start_unix_server(self._serve, str(path))
        tasks = [asyncio.ensure_future(each) for each in (self._read_pipe(), self._send_screens())]
        try:
            await self._ended.wait()
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            self._name_guests()

    async def _read_pipe(self) -> None:
        loop = asyncio.get_event_loop()
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while await reader.read(65536):
            self._changed.set()
        self._ended.set()

    async def _send_screens(self) -> None:
        looked = -LOOK_INTERVAL_S
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), LOOK_INTERVAL_S)
            self._changed.clear()
            began = time.monotonic()
            if not self._guests and began - looked < LOOK_INTERVAL_S:
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
        """Serve a guest's program until it has gone. Only its first line is read, and the end of file."""
        guest: WatchingGuest | None = None
        try:
            hello = (await reader.read(HELLO_BYTES)).decode("ascii", "replace").strip()
            if not _USER.fullmatch(hello) or len(self._guests) >= MAX_GUESTS:
                return
            guest = WatchingGuest(hello, writer, self._mark)
            self._guests.add(guest)
            self._changed.set()
            self._tell_owner(f"{hello} watches this terminal")
            while await reader.read(4096):
                pass
        except OSError:
            pass
        finally:
            if guest is not None:
                self._guests.discard(guest)
                self._tell_owner(f"{guest.user} no longer watches this terminal")
            writer.close()

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
        names = ", ".join(sorted({guest.user for guest in self._guests}))
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self._pane.tmux("set-option", "-p", "-t", self._pane.id, "@berth_guests", names)


def present_pane() -> TmuxPane:
    """Return the pane in which this program runs."""
    server = os.environ["TMUX"].rpartition(",")[0].rpartition(",")[0]
    pane = os.environ.get("TMUX_PANE", "")
    if not server or not _PANE.fullmatch(pane):
        exit_with("this is no terminal of tmux: TMUX and TMUX_PANE do not name one")
    return TmuxPane(server, pane)


def exit_with(message: str) -> NoReturn:
    sys.stderr.write(f"berth-show: {message}\n")
    sys.exit(1)


def begin_show(pane: TmuxPane, base: Path) -> None:
    """Start the writer of a pane, and return when it listens."""
    path = pane.socket(base)
    PaneState.read(pane)  # so that an old tmux says what it lacks
    if pane.ask("#{pane_pipe}") == "1":
        shown = "this terminal is shown already; `berth-show --stop` ends that"
        exit_with(
            shown if path.exists() else "another program reads this terminal's output (tmux pipe-pane); end that first"
        )
    words = ["exec", sys.executable, "-I", str(Path(sys.argv[0]).resolve()), "--write", pane.server, pane.id[1:]]
    # pipe-pane expands % as strftime(3), and # as a format.
    command = " ".join(map(shlex.quote, words)).replace("%", "%%").replace("#", "##")
    pane.tmux("pipe-pane", "-t", pane.id, command)
    limit = time.monotonic() + START_LIMIT_S
    while not path.exists():
        if time.monotonic() > limit:
            exit_with("the program that sends this terminal's output to guests has not started")
        time.sleep(0.02)
    print("Guests with the role `watch` see this terminal from now on. `berth-show --stop` ends that.")


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


def end_show(pane: TmuxPane, base: Path) -> None:
    """End the writer of a pane: guests no longer see it when this returns."""
    path = pane.socket(base)
    if not path.exists():
        exit_with("this terminal is not shown")
    pane.tmux("pipe-pane", "-t", pane.id)
    limit = time.monotonic() + START_LIMIT_S
    while path.exists() and time.monotonic() < limit:
        time.sleep(0.02)
    print("Guests no longer see this terminal.")


def main(words: list[str], base: Path) -> None:
    if words[:1] == ["--write"] and len(words) == 3:
        pane = TmuxPane(words[1], f"%{words[2]}")
        run_writer(pane, pane.socket(base))
        return
    if words not in ([], ["--stop"]):
        exit_with("usage: berth-show, to show this terminal to guests, or berth-show --stop")
    if shutil.which("tmux") is None:
        exit_with(
            "the session has no tmux, of which it shows terminals; `sudo apt-get install tmux` installs it on Debian"
        )
    if "TMUX" not in os.environ:
        if words:
            exit_with("run this in the terminal that is shown")
        again = f"{shlex.quote(sys.executable)} -I {shlex.quote(sys.argv[0])}"
        command = f'{again}; exec "${{SHELL:-/bin/bash}}" -l'
        os.execvp("tmux", ["tmux", "new-session", "-A", "-s", "shown", command])  # noqa: S606 - without a shell
    pane = present_pane()
    try:
        (end_show if words else begin_show)(pane, base)
    except subprocess.CalledProcessError as error:
        exit_with(f"tmux: {error.stderr.decode('utf-8', 'replace').strip()}")
    except (OSError, subprocess.SubprocessError) as error:
        exit_with(f"tmux does not answer: {error}")


if __name__ == "__main__":
    main(sys.argv[1:], Path(sys.argv[0]).resolve().parent.parent)
