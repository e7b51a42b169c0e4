"""The usual answers of `berth --help` and `berth list`, without click, whose import would take most of their time.

Anything else is left to `broker.cli.app`, from the beginning: options, a failure, a list that needs a remark. That
is possible because nothing was printed or changed before (ADR 143).
"""

from __future__ import annotations

import gc
import signal
import sys
import time
from typing import TYPE_CHECKING, cast

from broker.cli.command_table import ALIASES
from broker.cli.output import prepare_streams, table_lines
from broker.cli.page import print_page

if TYPE_CHECKING:
    from broker.errors import ExitCode
    from broker.schema.sessions import SessionView

_HELP = frozenset({"--help", "-h", "help"})
_LIST = frozenset({"list", *(alias for alias, name in ALIASES.items() if name == "list")})


def answer_at_once(words: list[str]) -> ExitCode | None:
    """Answer a command line of one word, and return the exit code; None if it has to be answered as all others."""
    if len(words) != 1 or words[0] not in _HELP | _LIST:
        return None
    prepare_streams()
    gc.disable()  # it would take a tenth of the time
    text = _help_page() if words[0] in _HELP else _session_list()
    if not text:
        gc.enable()
        return None
    gc.freeze()
    return print_page(text)


def _help_page() -> str:
    from broker.cli.overview import overview_page  # noqa: PLC0415 - `berth list` needs none

    return overview_page()


def _session_list() -> str:
    """Return the list of sessions; empty if another way has to print it, or print why there is none."""
    from broker.client.http import send_request  # noqa: PLC0415
    from broker.client.records import parse_records  # noqa: PLC0415
    from broker.config.file import site_socket  # noqa: PLC0415
    from broker.errors import BerthError  # noqa: PLC0415
    from broker.text.session import SHRINKING_COLUMN, session_table  # noqa: PLC0415

    takes_interrupts = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
    try:
        if takes_interrupts:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        place = site_socket()
        views = parse_records(send_request(place, "GET", "/v1/sessions").answer(), "sessions") if place else []
        if not views or any(view.stale_since is not None for view in views):
            return ""
        headings, rows = session_table(cast("list[SessionView]", views), time.time())
        return "".join(f"{line}\n" for line in table_lines(headings, rows, shrink=SHRINKING_COLUMN))
    except BerthError:
        return ""
    except KeyboardInterrupt:
        from broker.cli.errors import interrupted_command, report_error  # noqa: PLC0415 - rare

        sys.exit(report_error(interrupted_command(), as_json=False))
    finally:
        if takes_interrupts:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
