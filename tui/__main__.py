"""`python -m tui`: the terminal interface, or with `--plain` the menu of lines."""

# ruff: noqa: PLC0415 - the plain mode does without Textual, which takes long to import

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
import threading
import traceback
from typing import TYPE_CHECKING, NoReturn

from broker.config.environment import inherited_environment
from broker.errors import ExitCode
from tui.controller import open_controller
from tui.core.actions import ACTIONS
from tui.failure_log import log_failure

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run the interface until the user quits; return the exit code. A fault goes to the log, not to the screen."""
    plain = "--plain" in arguments or os.environ.get("TERM", "dumb") in {"", "dumb"}
    try:
        failure = _run_plain() if plain else _run_screens()
    except Exception:  # noqa: BLE001 - no user should see a bare traceback
        failure = traceback.format_exc()
    if failure:
        last = failure.strip().splitlines()[-1]
        _report(f"berth: internal error: {last}", log_failure(failure))
    return ExitCode.OK if _flush() and not failure else ExitCode.FAILED


def _run_plain() -> str:
    from tui.plain import PlainMode

    try:
        PlainMode(open_controller, ACTIONS).run()
    except OSError as error:  # of the standard streams: requests raise BerthError
        if error.errno != errno.EPIPE:
            _report(f"berth: cannot write the lines: {error.strerror}", "free disk space, or write to another file")
    return ""


def _report(message: str, hint: str) -> None:
    """Write an error to stderr. It is dropped if stderr cannot be written."""
    with contextlib.suppress(OSError):
        print(f"{message}\n  hint: {hint}", file=sys.stderr)


def _flush() -> bool:
    """Write the rest of stdout and stderr. What cannot be written is dropped: Python would fail again at its end."""
    complete = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            complete = False
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
    return complete


def _run_screens() -> str:
    """Run the application; return the traceback of a fault in it, or an empty text."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        _report("berth: the interface needs a terminal", "`berth tui --plain` works with lines")
        _flush()
        sys.exit(ExitCode.USAGE)
    # Textual reads these when it is imported. Pixel positions of the mouse are wrong in some terminals.
    os.environ.setdefault("TEXTUAL_SMOOTH_SCROLL", "0")
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    if os.environ.get("TERM") == "linux":
        os.environ.setdefault("TEXTUAL_DISABLE_KITTY_KEY", "1")
    gc.set_threshold(100_000)  # many sessions are many objects, none of them in cycles
    from tui.workers.watch_feed import FeedOpener

    feeds = FeedOpener(open_controller)
    from tui.action_runner import ActionRunner
    from tui.app import BerthApp
    from tui.catalogue import Catalogue
    from tui.core.settings import load_settings, settings_path
    from tui.core.signs import takes_unicode
    from tui.workers.profiles import read_profiles

    path = settings_path()
    settings, warning = load_settings(path)
    app = BerthApp(
        feeds.open,
        Catalogue(ACTIONS, ActionRunner(open_controller).run_action),
        settings=settings,
        settings_path=path,
        warning=warning,
        unicode=takes_unicode(inherited_environment()),
        read_profiles=read_profiles,
    )
    app.run()
    return app.failure


def exit_process(code: int) -> NoReturn:
    """End the process with this exit code, also if a thread does not end, for which Python would wait.

    Textual's thread for input stays if the terminal is closed while the interface returns from a command.
    """
    if any(each is not threading.main_thread() and not each.daemon for each in threading.enumerate()):
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    exit_process(main(sys.argv[1:]))
