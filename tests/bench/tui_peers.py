"""The programs that `berth tui` is compared with: an empty Textual application, and plain tables of it.

python -m tests.bench.tui_peers empty|table|polling SOCKET
"""

from __future__ import annotations

import sys
from pathlib import Path

from textual.app import App, ComposeResult
from textual.widgets import DataTable, Static

from broker.client.client import Client
from broker.text.session import HEADINGS, session_row

POLL_S = 1.0
READY = "painted"
"""The text that the empty application shows."""


class EmptyApp(App[None]):
    """Nothing but one text."""

    def compose(self) -> ComposeResult:
        yield Static(READY)


class TableApp(App[None]):
    """Textual's own table, filled with the rows of `berth list`; with `poll`, it asks again each second."""

    def __init__(self, socket: Path, *, poll: bool) -> None:
        super().__init__()
        self._client = Client(socket)
        self._poll = poll

    def compose(self) -> ComposeResult:
        yield DataTable()

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        for heading in HEADINGS:
            table.add_column(heading, key=heading)
        for view in self._client.sessions():
            table.add_row(*session_row(view, 0), key=view.id)
        if self._poll:
            self.set_interval(POLL_S, self._update)

    def _update(self) -> None:
        table = self.query_one(DataTable)
        for view in self._client.sessions():
            for heading, text in zip(HEADINGS, session_row(view, 0), strict=True):
                if table.get_cell(view.id, heading) != text:
                    table.update_cell(view.id, heading, text)


def main(kind: str, socket: str) -> None:
    app = EmptyApp() if kind == "empty" else TableApp(Path(socket), poll=kind == "polling")
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
