"""Show a terminal of the session to guests: the owner's command `berth-show`, and the writer that it starts.

The terminal is a pane of the owner's tmux. tmux pipes the pane's output to the writer (`pipe-pane`), for which it only
means that the screen has changed: the writer then reads the screen from tmux (`capture-pane`) and sends it to the
guests' programs, which are connected to its socket. Of a guest who only watches, it reads one line, the guest's name,
and nothing else: no byte of theirs can reach tmux. `keyboard.py` says what a guest with the role `pair` can do.

It is one of the programs of broker/job/guest: Python's standard library alone, and Python 3.8 (`program.py`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from broker.job.guest.pane import PaneState, TmuxPane
from broker.job.guest.writer import run_writer

START_LIMIT_S = 10.0
"""Seconds in which the writer must listen."""

_PANE = re.compile(r"%[0-9]{1,9}")


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
    print("Guests with the roles `watch` and `pair` see this terminal from now on. `berth-show --stop` ends that.")


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


def run_show(words: list[str], base: Path) -> None:
    """Be `berth-show`, or with `--write` the writer of a pane."""
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
