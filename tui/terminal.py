"""Run a command in the user's terminal while the interface is suspended."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
import sys
import termios
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tui.app import BerthApp

_OFF, _ON = (1000, 1003, 1006, 1015, 1016, 1004, 2004, 2048), (7, 25)
RESET = "".join([*(f"\x1b[?{mode}l" for mode in _OFF), *(f"\x1b[?{mode}h" for mode in _ON), "\x1b[0m"])
"""Mouse, focus, paste and size reports off; line wrap and cursor on; no colours. A command may end without its own."""


@contextlib.contextmanager
def kept_terminal(descriptor: int) -> Iterator[None]:
    """Restore the settings of the terminal when the block ends, whatever a program in it has changed."""
    try:
        settings = termios.tcgetattr(descriptor)
    except termios.error:  # not a terminal
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, settings)


def run_in_terminal(app: BerthApp, command: Sequence[str], *, shown: Sequence[str] = ()) -> int | None:
    """Suspend the interface, run the command in its terminal, and return its exit code; None if it cannot be run.

    `shown` is the line that the user sees first. After a failure the command's output stays until Enter is pressed. If
    the terminal is closed meanwhile, the interface ends.
    """
    stdin = sys.__stdin__
    try:
        with kept_terminal(-1 if stdin is None else stdin.fileno()), app.suspend():
            code = _run(command, shown or command)
    except (SuspendNotSupported, ValueError):
        app.notify("this terminal cannot be given to another program", severity="error", markup=False)
        return None
    except OSError:  # of the terminal: `_run` reports those of the program
        app.exit()
        return None
    app.redraw()
    return code


def _run(command: Sequence[str], shown: Sequence[str]) -> int | None:
    """Run a program on the terminal. Ctrl-C is for the program alone."""
    assert sys.__stdin__ is not None
    with kept_terminal(sys.__stdin__.fileno()):
        print(f"$ {shlex.join(shown)}", flush=True)
        former = signal.signal(signal.SIGINT, _ignore)
        try:
            code = subprocess.run(command, check=False).returncode
        except OSError as error:
            print(f"berth: cannot run {command[0]}: {error.strerror}")
            code = None
        finally:
            signal.signal(signal.SIGINT, former)
    sys.stdout.write(RESET)
    sys.stdout.flush()
    if code != 0:
        print("Press Enter to return to the list.", flush=True)
        with contextlib.suppress(OSError, EOFError, KeyboardInterrupt):
            sys.stdin.readline()
    return code


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing: unlike SIG_IGN, this is not inherited by programs."""
