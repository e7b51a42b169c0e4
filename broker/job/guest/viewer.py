"""The viewer of a shown terminal: it draws the screens on the guest's own terminal, and knows its keys.

It is one of the programs of broker/job/guest: Python's standard library alone, and Python 3.8 (`program.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import termios
import tty
import unicodedata
from typing import NamedTuple, NoReturn

MAX_SCROLL_LINES = 5000
MAX_KEY_BYTES = 8
"""A longer piece of input is no key, but pasted text or an answer of the terminal."""

QUIT, NEXT, UP, DOWN, PAGE_UP, PAGE_DOWN, TOP, END, ASK = range(9)
_CODES = (
    "q \x03 \x04,n,k \x1b[A \x1bOA,j \x1b[B \x1bOB,b \x1b[5~,f \x1b[6~,"
    "g \x1b[H \x1b[1~ \x1bOH,G \x1b[F \x1b[4~ \x1bOF,i"
)
KEYS = {code.encode(): action for action, codes in enumerate(_CODES.split(",")) for code in codes.split(" ")}
"""The bytes that terminals send for each key, and its action."""

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
    keyboard: str
    """The guest who has the keyboard; empty: the owner alone."""

    @classmethod
    def parse(cls, line: bytes) -> tuple[ScreenFrame, list[str]]:
        """Return the frame, and the lines that have left the screen."""
        data = json.loads(line)
        x, y, has_cursor = data["cursor"]
        columns, lines = data["size"]
        return cls(columns, lines, (x, y), bool(has_cursor), data["rows"], str(data["keyboard"])), data["history"]


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


class ScreenViewer:
    """The screen of the guest: the shown terminal, and below it one line of the program's own."""

    def __init__(self, terminal: GuestTerminal, title: str, user: str, *, may_type: bool) -> None:
        """`may_type`: whether the owner may give the keyboard to this guest, `user`."""
        self._terminal = terminal
        self._title = title
        self._user = user
        self._may_type = may_type
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
        self._history = (self._history + history)[-MAX_SCROLL_LINES:]
        if self._back:
            self._back = min(self._back + len(history), self._most_back())

    def forget(self) -> None:
        """Forget the terminal that was seen."""
        self.frame, self._history, self._back = None, [], 0

    @property
    def has_keyboard(self) -> bool:
        """Whether the guest has the keyboard of the terminal that is seen."""
        return self._may_type and self.frame is not None and self.frame.keyboard == self._user

    def scroll(self, key: int) -> None:
        page = max(1, self._terminal.size[1] - 2)
        steps = {UP: 1, DOWN: -1, PAGE_UP: page, PAGE_DOWN: -page, TOP: MAX_SCROLL_LINES, END: -MAX_SCROLL_LINES}
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
        rows, cursor = self._visible_lines(room)
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

    def _visible_lines(self, room: int) -> tuple[list[str], tuple[int, int] | None]:
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
        if self.has_keyboard:
            return f" {self._title}: you type as the owner; F12 returns the keyboard"
        keys = "q quits, PageUp scrolls" + (", n: next terminal" if count > 1 else "")
        which = f" {number} of {count}" if count > 1 else ""
        if self._may_type:
            keys += ", i asks for the keyboard"
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


def end_group(code: int) -> NoReturn:
    """End this process and all others of its group."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.killpg(0, signal.SIGTERM)
    os._exit(code)
