"""The keyboard of a shown terminal: its owner gives it to one guest by a key, and takes it back by the same key.

tmux itself keeps who has it, in the pane's option `@berth_keyboard`, and compares it in the same turn in which it
passes a guest's input to the pane. So input ends with the key, with the last client that shows the pane, and with any
other mode of the pane, and not some time later.

It is one of the programs of broker/job/guest: Python's standard library alone, and Python 3.8 (`program.py`).
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.job.guest.pane import TmuxPane

TYPED_BYTES = 1024
"""Bytes that a guest's program sends at once."""
KEYBOARD_KEYS = tuple(f"F{number}" for number in range(12, 0, -1))
"""The owner's key: the first one to which the owner has bound nothing."""
NO_KEY = "no function key is free: nothing"
"""Said in place of the key if there is none. Then no guest gets the keyboard."""

_HOLDER, _NEXT = "@berth_keyboard", "@berth_pair"
"""Options of the pane: the guest who has the keyboard, and the one who gets it by the key."""
_CONDITIONS = (
    (f"#{{{_HOLDER}}}", "{user}"),
    ("#{pane_in_mode}", "0"),
    ("#{pane_synchronized}", "0"),
    ("#{pane_input_off}", "0"),
    ("#{pane_dead}", "0"),
    ("#{?window_active_clients,1,0}", "1"),
    ("#{?window_zoomed_flag,#{pane_active},1}", "1"),
)
"""Formats of tmux and their values while input passes: the guest has the keyboard, the pane is in no mode and passes
input to no other pane, and a client shows it."""


class Keyboard:
    """The keyboard of one pane, and the guests who may get it. A failure of tmux changes nothing."""

    def __init__(self, pane: TmuxPane) -> None:
        self._pane = pane
        self._guests: list[str] = []
        """The guests; the one that gets the keyboard next comes first."""
        self.key = KEYBOARD_KEYS[0]
        """The owner's key."""

    @property
    def is_offered(self) -> bool:
        """Whether a guest may get the keyboard."""
        return bool(self._guests)

    def clear(self) -> None:
        """Take away what a writer has left that ended without a word."""
        for option in (_HOLDER, _NEXT):
            self._tmux("set-option", "-p", "-t", self._pane.id, option, "")

    def join(self, user: str) -> None:
        """Let the owner give the keyboard to one more guest."""
        if not self._guests:
            self._bind()
            self._show_holder(is_shown=True)
        self._guests.append(user)
        self._name_next()

    def leave(self, user: str) -> None:
        """Forget a guest, and take back the keyboard."""
        self._guests.remove(user)
        if user not in self._guests:
            self.take_back(user)
        self._name_next()
        if not self._guests:
            self._show_holder(is_shown=False)
            if self.key != NO_KEY and not self._is_offered_in("-a"):
                self._tmux("unbind-key", "-n", self.key)

    def ask(self, user: str) -> None:
        """Make a guest the next one who gets the keyboard."""
        self._guests.remove(user)
        self._guests.insert(0, user)
        self._name_next()

    def take_back(self, user: str) -> None:
        """Take the keyboard from a guest, if that guest has it."""
        is_theirs = f"#{{==:#{{{_HOLDER}}},{user}}}"
        command = f"set-option -p -t {self._pane.id} {_HOLDER} ''"
        self._tmux("if-shell", "-F", "-t", self._pane.id, is_theirs, command)

    def type(self, user: str, data: bytes) -> None:
        """Write what a guest has typed to the pane's program, byte for byte, or discard it: see the module."""
        actual = " ".join(form for form, _ in _CONDITIONS)
        wanted = " ".join(value for _, value in _CONDITIONS).format(user=user)
        codes = " ".join(f"{byte:02x}" for byte in data)
        # -H: a byte is no name of a key, and finds no binding.
        words = f"send-keys -t {self._pane.id} -H {codes}"
        self._tmux("if-shell", "-F", "-t", self._pane.id, f"#{{==:{actual},{wanted}}}", words)

    def _name_next(self) -> None:
        self._tmux("set-option", "-p", "-t", self._pane.id, _NEXT, self._guests[0] if self._guests else "")

    def _bind(self) -> None:
        """Bind the owner's key. In a pane without such guests it does what it did before."""
        bound = {}
        for line in self._tmux("list-keys", "-T", "root").splitlines():
            words = line.replace(" -r ", " ").split(maxsplit=4)
            if len(words) == 5:
                bound[words[3]] = words[4]
        free = [key for key in KEYBOARD_KEYS if _HOLDER in bound.get(key, _HOLDER)]
        self.key = free[0] if free else NO_KEY
        if not free:
            return
        shown = "refresh-client -S ; display-message"
        take = f"set-option -p {_HOLDER} '' ; {shown} 'berth: the keyboard is yours alone'"
        give = (
            f"set-option -pF {_HOLDER} '#{{{_NEXT}}}' ; {shown} 'berth: #{{{_HOLDER}}} types; {self.key} takes it back'"
        )
        give = f"if-shell -F '#{{{_NEXT}}}' \"{give}\" 'send-keys {self.key}'"
        self._tmux("bind-key", "-n", self.key, "if-shell", "-F", f"#{{{_HOLDER}}}", take, give)

    def _is_offered_in(self, *panes: str) -> bool:
        """Whether a guest may get the keyboard of one of these panes, as options of list-panes name them."""
        return bool(self._tmux("list-panes", *panes, "-F", f"#{{{_NEXT}}}").strip())

    def _show_holder(self, *, is_shown: bool) -> None:
        """Have the status line begin with who types, on its right side, or no longer."""
        mark = f"#{{?{_HOLDER},#[reverse] #{{{_HOLDER}}} types - {self.key}: take back #[default] ,}}"
        session = self._tmux("display-message", "-p", "-t", self._pane.id, "#{session_id}").strip()
        own = self._tmux("show-options", "-qv", "-t", session, "status-right").rstrip("\n")
        common = self._tmux("show-options", "-gqv", "status-right").rstrip("\n")
        text = own.replace(mark, "")
        if is_shown:
            self._tmux("set-option", "-t", session, "status-right", mark + (text or common))
        elif mark not in own or self._is_offered_in("-s", "-t", session):
            return
        elif text == common:
            self._tmux("set-option", "-u", "-t", session, "status-right")
        else:
            self._tmux("set-option", "-t", session, "status-right", text)

    def _tmux(self, *words: str) -> str:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            return self._pane.tmux(*words)
        return ""
