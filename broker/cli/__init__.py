"""The `berth` command. `main` is the entry point; app.py has the table of commands."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run one command, and end the process with its exit code.

    While modules load, and after the command, Ctrl-C ends the process without a message, as it ends most programs. If
    SIGINT was ignored, it stays ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from broker.cli.short_commands import answer_at_once  # noqa: PLC0415 - see above

    code = answer_at_once(sys.argv[1:])
    if code is not None:
        sys.exit(code)
    from broker.cli.app import run  # noqa: PLC0415 - loading it takes most of a short command's time

    run()
