"""Show a guest the terminals that the session's owner shows: the one command of the role `watch`.

sshd runs it for the guest's key, as the owner, with the guest's name. It copies screens out and carries no input: what
the guest types is compared with the program's own keys and discarded. It ends when the guest's lease has ended.

The session's script carries this program, and the Python of the session's image runs it: it imports nothing but the
standard library, and has to run with Python 3.8.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import sys
import termios
import time
import tty
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

ROLE = "watch"
LOOK_INTERVAL_S = 1.0
"""Seconds between two looks at the lease. It is opened each time: NFS keeps the attributes of an open file."""
LEASE_S = 60.0
"""Seconds after which a lease ends that the controller has not renewed."""
CLOCK_SKEW_S = 300.0
"""Seconds that a node's clock may differ from the controller's: as much as MUNGE allows."""
USE_INTERVAL_S = 60.0
"""Seconds between two marks that the session is in use."""
LEASE_BYTES = 65536
MAX_FRAME_BYTES = 8 << 20
MAX_HISTORY_LINES = 5000
MAX_KEY_BYTES = 8
"""A longer piece of input is no key, but pasted text or an answer of the terminal."""

QUIT, NEXT, UP, DOWN, PAGE_UP, PAGE_DOWN, TOP, END = range(8)
_CODES = (
    "q \x03 \x04,n,k \x1b[A \x1bOA,j \x1b[B \x1bOB,b \x1b[5~,f \x1b[6~,g \x1b[H \x1b[1~ \x1bOH,G \x1b[F \x1b[4~ \x1bOF"
)
KEYS = {code.encode(): action for action, codes in enumerate(_CODES.split(",")) for code in codes.split(" ")}
"""What terminals send for each key, and its action."""

ENTER = b"\x1b[?1049h\x1b[?7l\x1b[2J"
LEAVE = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_TOKEN = re.compile(r"(\x1b\[[0-9;:]*m)|\x1b\]8;[^\x07\x1b]*(?:\x07|\x1b\\)|(\x0e)|(\x0f)|([^\x00-\x1f\x7f-\x9f])")
_LINES = str.maketrans("`afgijklmnopqrstuvwxyz{|}~", "◆▒°±␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·")
"""The line drawing characters of a VT100, which tmux writes between SO and SI."""


class ScreenFrame(NamedTuple):
    """A screen of a shown terminal."""

    columns: int
    lines: int
    cursor: tuple[int, int]
    has_cursor: bool
    rows: list[str]

    @classmethod
    def parse(cls, line: bytes) -> tuple[ScreenFrame, list[str]]:
        """Return the frame, and the lines that have left the screen."""
        data = json.loads(line)
        x, y, has_cursor = data["cursor"]
        columns, lines = data["size"]
        return cls(columns, lines, (x, y), bool(has_cursor), data["rows"]), data["history"]


class GuestLease:
    """The permission of one guest, in the file that the controller writes again and again."""

    def __init__(self, path: Path, user: str) -> None:
        self._path = path
        self._line = f"{ROLE} {user}"
        self._number = ""
        self._changed = -LEASE_S

    def problem(self) -> str:
        """Look at the lease. Return why it has ended; empty while it is valid."""
        try:
            with self._path.open(encoding="ascii") as file:
                head, *lines = file.read(LEASE_BYTES).splitlines() or [""]
        except (OSError, ValueError):
            return "the session's list of guests cannot be read"
        if self._line not in lines:
            return "your access has ended"
        now, number = time.monotonic(), head.partition(" ")[2]
        if number != self._number:
            if not self._number and not (number.isdigit() and abs(time.time() - int(number) / 1e9) < CLOCK_SKEW_S):
                return "Berth's controller does not answer; without it, no guest gets in"
            self._number, self._changed = number, now
        if now - self._changed >= LEASE_S:
            return "Berth's controller has not confirmed your access for a minute"
        return ""


class GuestTerminal:
    """The guest's terminal. Nothing here waits for it: what it does not take is sent later, or not at all."""

    def __init__(self) -> None:
        self._before = termios.tcgetattr(0)
        self.unsent = b""
        # The session's notices are for its owner: they go to all terminals that can be written (broker/job/container).
        with contextlib.suppress(OSError):
            os.fchmod(0, 0o400)
        tty.setraw(0)
        os.set_blocking(1, False)
        self.write(ENTER)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        columns, lines = os.get_terminal_size(1)
        return columns or 80, lines or 24

    def write(self, data: bytes) -> None:
        self.unsent += data
        self.flush()

    def flush(self) -> None:
        try:
            while self.unsent:
                self.unsent = self.unsent[os.write(1, self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            end_group(0)

    def restore(self) -> None:
        with contextlib.suppress(OSError):
            self.write(LEAVE)
            termios.tcsetattr(0, termios.TCSANOW, self._before)


class ScreenSource:
    """The connection to the writer of a shown terminal."""

    def __init__(self, path: Path, user: str) -> None:
        """OSError if nothing listens there."""
        self.path = path
        self.connection = socket.socket(socket.AF_UNIX)
        try:
            self.connection.connect(str(path))
            self.connection.sendall(f"{user}\n".encode())
            self.connection.setblocking(False)
        except OSError:
            self.connection.close()
            raise
        self._data = b""

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


class ScreenViewer:
    """The screen of the guest: the shown terminal, and below it one line of the program's own."""

    def __init__(self, terminal: GuestTerminal, title: str) -> None:
        self._terminal = terminal
        self._title = title
        self._drawn: list[str] = []
        self._size = (0, 0)
        self.frame: ScreenFrame | None = None
        self._history: list[str] = []
        self._back = 0
        """Lines by which the guest has scrolled back."""
        self.place = (0, 0)
        """The number of the terminal that is seen, and how many are shown."""

    def take(self, frame: ScreenFrame, history: list[str]) -> None:
        self.frame = frame
        self._history = (self._history + history)[-MAX_HISTORY_LINES:]
        if self._back:
            self._back = min(self._back + len(history), self._most_back())

    def forget(self) -> None:
        """Forget the terminal that was seen."""
        self.frame, self._history, self._back = None, [], 0

    def scroll(self, key: int) -> None:
        page = max(1, self._terminal.size[1] - 2)
        steps = {UP: 1, DOWN: -1, PAGE_UP: page, PAGE_DOWN: -page, TOP: MAX_HISTORY_LINES, END: -MAX_HISTORY_LINES}
        self._back = max(0, min(self._back + steps.get(key, 0), self._most_back()))

    def _most_back(self) -> int:
        rows = len(self.frame.rows) if self.frame is not None else 0
        return max(0, len(self._history) + rows - (self._terminal.size[1] - 1))

    def draw(self) -> None:
        """Write the lines that have changed. Nothing is written while the terminal does not take what it has got."""
        if self._terminal.unsent:
            return
        columns, lines = self._terminal.size
        if (columns, lines) != self._size:
            self._size, self._drawn = (columns, lines), []
            self._terminal.write(b"\x1b[0m\x1b[2J")
        room = max(1, lines - 1)
        rows, cursor = self._visible(room)
        shown = [clip_row(row, columns) for row in rows] + [""] * (room - len(rows))
        shown.append("\x1b[7m" + clip_row(self._status(), columns).ljust(columns))
        out = []
        for number, text in enumerate(shown):
            if number >= len(self._drawn) or self._drawn[number] != text:
                out.append(f"\x1b[{number + 1};1H\x1b[0m\x1b[K{text}\x1b[0m")
        self._drawn = shown
        if cursor is None:
            out.append("\x1b[?25l")
        else:
            out.append(f"\x1b[{cursor[1] + 1};{min(cursor[0], columns - 1) + 1}H\x1b[?25h")
        self._terminal.write("".join(out).encode())

    def _visible(self, room: int) -> tuple[list[str], tuple[int, int] | None]:
        """Return the lines that fit, and the place of the cursor among them."""
        if self.frame is None:
            return [], None
        if self._back:
            both = self._history + self.frame.rows
            end = len(both) - self._back
            return both[max(0, end - room) : end], None
        x, y = self.frame.cursor
        top = max(0, min(y - room + 1, len(self.frame.rows) - room))
        top = max(top, y - room + 1, 0)
        cursor = (x, y - top) if self.frame.has_cursor else None
        return self.frame.rows[top : top + room], cursor

    def _status(self) -> str:
        number, count = self.place
        if self.frame is None:
            return f" {self._title}: no terminal is shown now; q quits"
        keys = "q quits, PageUp scrolls" + (", n: next terminal" if count > 1 else "")
        which = f" {number} of {count}" if count > 1 else ""
        if self._back:
            keys = f"{self._back} lines back; End returns"
        columns, lines = self._terminal.size
        cut = self.frame.columns > columns or self.frame.lines > lines - 1
        size = f", cut: it has {self.frame.columns}x{self.frame.lines}" if cut else ""
        return f" {self._title}: terminal{which}{size}; {keys}"


def clip_row(text: str, columns: int) -> str:
    """Return a row with its colours and without any other sequence, cut to so many columns."""
    out, width, drawing = [], 0, False
    for found in _TOKEN.finditer(text):
        sgr, shift_out, shift_in, char = found.groups()
        if sgr:
            out.append(sgr)
        elif shift_out or shift_in:
            drawing = bool(shift_out)
        elif char:
            if not unicodedata.combining(char):
                width += 2 if unicodedata.east_asian_width(char) in "WF" else 1
            if width > columns:
                break
            out.append(char.translate(_LINES) if drawing else char)
    return "".join(out)


def shown_sockets(base: Path) -> list[Path]:
    """Return the sockets of the terminals that are shown, in the order in which tmux has made them."""
    found = [path for path in (base / "node" / "shown").glob("*.sock") if path.stem.isdigit()]
    return sorted(found, key=lambda path: int(path.stem))


class WatchLoop:
    """The loop: screens go out, keys are read, and the lease is looked at."""

    def __init__(self, base: Path, user: str, title: str) -> None:
        self._base = base
        self._user = user
        self._lease = GuestLease(base / "session" / "guests", user)
        self._title = title
        self._source: ScreenSource | None = None
        self._used = -USE_INTERVAL_S

    def run(self) -> NoReturn:
        self._check_lease(None)
        terminal = GuestTerminal()
        viewer = ScreenViewer(terminal, self._title)
        signal.signal(signal.SIGWINCH, lambda *_: None)
        looked = time.monotonic()
        while True:
            now = time.monotonic()
            if now - looked >= LOOK_INTERVAL_S:
                looked = now
                self._check_lease(terminal)
                self._mark_use(now)
            self._find_source(viewer)
            viewer.draw()
            wait = max(0.0, looked + LOOK_INTERVAL_S - time.monotonic())
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

    def _mark_use(self, now: float) -> None:
        """Touch the file by which programs say that the session is in use."""
        if now - self._used >= USE_INTERVAL_S:
            self._used = now
            with contextlib.suppress(OSError):
                (self._base / "node" / "active").touch()

    def _find_source(self, viewer: ScreenViewer) -> None:
        paths = shown_sockets(self._base)
        if self._source is None:
            for path in paths:
                with contextlib.suppress(OSError):
                    self._source = ScreenSource(path, self._user)
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
            following = ScreenSource(paths[at % len(paths)], self._user)
            self._source.connection.close()
            self._source = following
            viewer.forget()

    def _read_frames(self, source: ScreenSource, viewer: ScreenViewer) -> None:
        try:
            for frame, history in source.frames():
                viewer.take(frame, history)
        except (EOFError, ValueError, KeyError, TypeError):
            source.connection.close()
            self._source = None
            viewer.forget()

    def _read_key(self, terminal: GuestTerminal, viewer: ScreenViewer) -> None:
        """Read what the guest has typed, act on a key of the program, and discard all else."""
        try:
            typed = os.read(0, 4096)
        except OSError:
            typed = b""
        key = KEYS.get(typed) if len(typed) <= MAX_KEY_BYTES else None
        if not typed or key == QUIT:
            terminal.restore()
            end_group(0)
        if key == NEXT:
            self._next_source(viewer)
        elif key is not None:
            viewer.scroll(key)


def end_group(code: int) -> NoReturn:
    """End this process and all others of its group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.killpg(0, signal.SIGTERM)
    os._exit(code)


def main(user: str, base: Path) -> NoReturn:
    title = f"{os.environ.get('BERTH_OWNER', '')}.{os.environ.get('BERTH_SESSION_NAME', '')}"
    if os.environ.get("SSH_ORIGINAL_COMMAND") is not None:
        sys.exit(f"berth: {user} may watch {title}, and run no command, copy no file there; log in without a command")
    if not (os.isatty(0) and os.isatty(1)):
        sys.exit(f"berth: {user} may watch {title}, for which ssh needs a terminal (ssh -t)")
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    WatchLoop(base, user, title).run()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[0]).resolve().parent.parent)
