"""Run a program in a window of tmux, as on a user's laptop, and see the cells and the modes of its terminal."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.deadlines import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

INTACT = {"alternate_on": "0", "cursor_flag": "1", "mouse_any_flag": "0", "keypad_cursor_flag": "0"}
"""Formats of tmux(1), with their values in a shell: no alternate screen, a cursor, no mouse, ordinary cursor keys."""
LOOK_S = 0.05
"""Seconds between two looks at the window."""


class TmuxTerminal:
    """A tmux server of its own with one window. Its prefix is C-a, as that of many users."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 120, lines: int = 40
    ) -> None:
        self._directory = tempfile.mkdtemp(prefix="berth-")  # short: a socket's path has at most 107 bytes
        self._environment = {"PATH": os.environ["PATH"], "LC_CTYPE": "C.UTF-8", **environment}
        config = Path(self._directory, "tmux.conf")
        settings = (
            "prefix C-a",
            "status off",
            "remain-on-exit on",
            "default-terminal screen-256color",
            "escape-time 20",
        )
        config.write_text("".join(f"set -g {each}\n" for each in settings))
        size = ["-x", str(columns), "-y", str(lines)]
        self._tmux("-f", str(config), "new-session", "-d", *size, *command)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tmux("kill-server")
        shutil.rmtree(self._directory)

    def _tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", f"{self._directory}/socket", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"tmux {' '.join(words)}: {done.stderr}"
        return done.stdout

    def client_command(self) -> list[str]:
        """Return the command of a client: what is typed in its terminal goes through tmux's own keys."""
        return ["tmux", "-S", f"{self._directory}/socket", "attach-session"]

    def type(self, text: str) -> None:
        """Type characters."""
        self._tmux("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Press keys by the names of tmux(1), such as `Enter`, `Escape`, `C-c`."""
        self._tmux("send-keys", *keys)

    def resize(self, columns: int, lines: int) -> None:
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    def text(self) -> str:
        """Return the characters of the window."""
        return self._tmux("capture-pane", "-p")

    def wait_for_end(self) -> None:
        """Return when the program in the window has ended."""
        self.wait_for(lambda _: self.read_format("pane_dead") == "1", what="the end of the program")

    def pid(self) -> int:
        """Return the process id of the program that was started in the window."""
        return int(self.read_format("pane_pid"))

    def read_format(self, name: str) -> str:
        """Return a format of tmux(1), such as `pane_title`."""
        return self._tmux("display-message", "-p", f"#{{{name}}}").removesuffix("\n")

    def changed_modes(self) -> dict[str, str]:
        """Return the modes that are not as a shell needs them."""
        found = {name: self.read_format(name) for name in INTACT}
        return {name: value for name, value in found.items() if value != INTACT[name]}

    def wait_for(self, condition: Callable[[str], Any], *, what: str = "", deadline_s: float = DEADLINE_S) -> str:
        """Return the characters of the window when the condition is true of them."""
        deadline = time.monotonic() + deadline_s
        while not condition(text := self.text()):
            assert time.monotonic() < deadline, f"not shown: {what}\n{text}"
            time.sleep(LOOK_S)
        return text

    def wait_for_text(self, expected: str, *, deadline_s: float = DEADLINE_S) -> str:
        return self.wait_for(lambda text: expected in text, what=expected, deadline_s=deadline_s)
