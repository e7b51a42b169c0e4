"""`berth tui --plain`: print lines, read a line, and change nothing on the screen in between."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from broker.errors import BerthError
from broker.format import escape_controls, format_time
from tui.core.plain_menu import PlainMenu
from tui.core.site_facts import SiteFacts
from tui.program import berth_program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from broker.client.client import Client
    from tui.core.catalogue_action import CatalogueAction

PROMPT = "berth> "


class PlainMode:
    """The loop of the menu, over the process's standard streams."""

    def __init__(self, open_client: Callable[[], Client], actions: Sequence[CatalogueAction]) -> None:
        self._open_client = open_client
        self._menu = PlainMenu(actions)
        self._as_of: float | None = None

    def run(self) -> None:
        """Serve the user until `q`, the end of the input or Ctrl-C at the prompt."""
        self._refresh()
        _print(self._menu.help())
        while (line := _ask(PROMPT)) is not None:
            reply = self._menu.answer(line, time.time())
            _print(reply.lines)
            if reply.quit:
                return
            if reply.command:
                self._run_command(reply.command)
            if reply.refresh or reply.command:
                self._refresh()

    def _refresh(self) -> None:
        try:
            client = self._open_client()
            site = client.read_site()
            self._menu.take(client.sessions(), SiteFacts(site.domain, tuple(site.profile_stores)))
            self._as_of = time.time()
        except BerthError as error:
            _print([f"{error.message}.", f"Hint: {error.hint}."] if error.hint else [f"{error.message}."])
            if self._as_of is None:
                return
            _print([f"This is the list as of {format_time(self._as_of)}."])
        _print(self._menu.list_sessions(time.time()))

    def _run_command(self, words: Sequence[str]) -> None:
        """Ask for the words in capitals, show the command line, and run it."""
        command = []
        for word in words:
            value = _ask(f"{word}: ") if word.isupper() else word
            if not value:
                _print(["Nothing was done."])
                return
            command.append(value)
        _print([f"$ {shlex.join(command)}"])
        try:
            code = subprocess.run(berth_program(command), check=False).returncode
        except KeyboardInterrupt:  # the command has had it, too
            code = 130
        _print(["Done." if code == 0 else f"The command ended with exit code {code}."])


def _ask(prompt: str) -> str | None:
    """Return a typed line; None at the end of the input, or after Ctrl-C."""
    try:
        return input(prompt)
    except (EOFError, KeyboardInterrupt):
        print()
        return None


def _print(lines: Sequence[str]) -> None:
    """Print lines in the encoding of the terminal; characters that it lacks are replaced."""
    for line in lines:
        text = escape_controls(line)
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
