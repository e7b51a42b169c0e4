"""Screens that show a text: one that is read from the controller, a log that is followed, a command's output."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import time
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Log, Static

from broker.errors import BerthError
from broker.format import escape_controls
from broker.text.log import added_text
from broker.text.session import ENDED
from tui.core.outcome import describe_error
from tui.core.session_action import shell_line
from tui.core.views import safe_lines
from tui.program import berth_program

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult

    from broker.client.client import Client
    from tui.core.views import Lines
    from tui.workers.requests import RequestWorker

LOG_BYTES = 256 * 1024
"""Bytes of the log's end that are shown."""

FOLLOW_S = 1.0
"""Seconds between two reads of a log; each read is a small one on the shared file system."""

READ_BYTES = 64 * 1024

MAX_LINES = 20_000
"""Lines that a screen keeps."""

_KEYS = "F2 copies the command  j k PgUp PgDn move"


class ViewScreen(ModalScreen[None], inherit_bindings=False):
    """A title, a text that scrolls, and the equivalent command line."""

    DEFAULT_CSS = """
    ViewScreen { layout: vertical; background: $background; }
    ViewScreen > Static { height: 1; width: 1fr; padding: 0 1; background: $background; color: $foreground; }
    ViewScreen > .title { background: $surface; color: $primary; }
    ViewScreen > .hint { color: $text-muted; }
    ViewScreen > .command { color: $primary; }
    ViewScreen VerticalScroll { width: 1fr; height: 1fr; padding: 0 1; background: $background; }
    ViewScreen VerticalScroll Static { width: 1fr; height: auto; color: $foreground; }
    ViewScreen Log { width: 1fr; height: 1fr; padding: 0 1; background: $background; color: $foreground; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "close", show=False),
        Binding("down,j", "scroll(1)", "down", show=False),
        Binding("up,k", "scroll(-1)", "up", show=False),
        Binding("pagedown,space,ctrl+d,ctrl+f", "scroll_page(1)", "next page", show=False),
        Binding("pageup,ctrl+u", "scroll_page(-1)", "previous page", show=False),
        Binding("home,g", "scroll_to_end(False)", "begin", show=False),
        Binding("end,G", "scroll_to_end(True)", "end", show=False),
        Binding("f2", "copy_command", "copy the command", show=False),
        Binding("ctrl+c", "app.quit", "quit", show=False),
    ]
    HINT: ClassVar[str] = f"Esc closes  {_KEYS}"

    def __init__(self, title: str, command: Sequence[str]) -> None:
        super().__init__()
        self._title = title
        self._command = shell_line(command)

    def compose(self) -> ComposeResult:
        yield Static(self._title, classes="title", markup=False)
        yield from self.body()
        yield Static(f"$ {self._command}", classes="command", markup=False)
        yield Static(self.HINT, classes="hint", markup=False)

    def body(self) -> ComposeResult:
        """Yield the widget with the text."""
        log = Log(max_lines=MAX_LINES)
        log.can_focus = False
        yield log

    def show_title(self, note: str) -> None:
        """Show a note after the title."""
        self.query_one(".title", Static).update(f"{self._title}{f': {note}' if note else ''}")

    def action_close(self) -> None:
        self.dismiss()

    def action_copy_command(self) -> None:
        self.app.copy_to_clipboard(self._command)
        self.notify("the command line was copied", timeout=2, markup=False)

    def action_scroll(self, lines: int) -> None:
        self._scrolled_widget().scroll_relative(y=lines, animate=False)

    def action_scroll_page(self, pages: int) -> None:
        body = self._scrolled_widget()
        body.scroll_relative(y=pages * max(1, body.size.height - 1), animate=False)

    def action_scroll_to_end(self, end: bool) -> None:
        body = self._scrolled_widget()
        if end:
            body.scroll_end(animate=False)
        else:
            body.scroll_home(animate=False)

    def _scrolled_widget(self) -> Log | VerticalScroll:
        return self.query_one(Log)


class LoadedTextScreen(ViewScreen):
    """Shows lines that are read in the background. `r` reads them again, and so does `every_s`, while it is open."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("r", "reload", "read again", show=False)]
    HINT = f"Esc closes  r reads again  {_KEYS}"

    def __init__(
        self,
        title: str,
        command: Sequence[str],
        requests: RequestWorker,
        read: Callable[[Client, float, int], Lines],
        *,
        clock: Callable[[], float] = time.time,
        every_s: float | None = None,
    ) -> None:
        super().__init__(title, command)
        self._requests = requests
        self._read = read
        self._clock = clock
        self._every_s = every_s
        self._shown = ""

    def body(self) -> ComposeResult:
        body = VerticalScroll()
        body.can_focus = False
        with body:
            yield Static("reading …", id="text", markup=False)

    def on_mount(self) -> None:
        self.action_reload()

    def action_reload(self) -> None:
        self.run_worker(self._load(), exclusive=True)

    async def _load(self) -> None:
        self._show(await self._lines())
        while self._every_s is not None:
            await asyncio.sleep(self._every_s)
            self._show(await self._lines())

    async def _lines(self) -> Lines:
        cells = max(self.size.width - 4, 1)
        try:
            return await self._requests.read(lambda client: self._read(client, self._clock(), cells))
        except BerthError as error:
            return [describe_error(error)]

    def _show(self, lines: Lines) -> None:
        """Draw the lines if they differ from those that are shown."""
        text = safe_lines(lines)
        if text != self._shown:
            self._shown = text
            self.query_one("#text", Static).update(text)

    def _scrolled_widget(self) -> VerticalScroll:
        return self.query_one(VerticalScroll)


class LogScreen(ViewScreen):
    """Shows a session's log, and new lines until its job ends."""

    def __init__(self, name: str, command: Sequence[str], requests: RequestWorker) -> None:
        super().__init__(f"log of {name}", command)
        self._session_name = name
        self._requests = requests

    def on_mount(self) -> None:
        self.run_worker(self._follow())

    async def _follow(self) -> None:
        seen, ended = "", False
        while not ended:
            try:
                ended, text = await self._requests.read(self._read)
            except BerthError as error:
                self.show_title(escape_controls(describe_error(error)))
                ended = False
            else:
                self.query_one(Log).write(escape_controls(added_text(seen, text), keep="\n\t"))
                self.show_title("the job has ended" if ended else "follows the job")
                seen = text
            if not ended:
                await asyncio.sleep(FOLLOW_S)

    def _read(self, client: Client) -> tuple[bool, str]:
        ended = client.session(self._session_name).state in ENDED  # before the read, so that no last lines are missed
        return ended, client.log(self._session_name, tail=LOG_BYTES)


class OutputScreen(ViewScreen):
    """Runs a `berth` command, and shows its output as it arrives. Closing the screen ends the command."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(shell_line(command), command)
        self._argv = berth_program(command)

    def on_mount(self) -> None:
        self.run_worker(self._run())

    async def _run(self) -> None:
        self.show_title("running …")
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            while data := await process.stdout.read(READ_BYTES):
                self.query_one(Log).write(escape_controls(decoder.decode(data), keep="\n\t"))
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
        self.show_title("done" if code == 0 else f"ended with exit code {code}")
