"""The application: connects the worker, the screens and the settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from textual.app import App
from textual.worker import WorkerFailed

from broker.format import escape_controls
from tui.ascii_filter import AsciiFilter
from tui.catalogue import Catalogue
from tui.core.connection_state import ConnectionState
from tui.core.keys import key_name
from tui.core.palette import DARK, LIGHT
from tui.core.settings import THEMES, TuiSettings, save_settings
from tui.core.signs import ASCII, UNICODE
from tui.core.site_facts import SiteFacts, newest_versions
from tui.look import LOOKS, THEME_ANSI_DARK, THEME_ANSI_LIGHT, THEME_DARK, THEME_LIGHT, ScreenStyles, make_theme
from tui.screens.chooser import Choice
from tui.screens.sessions import SessionsScreen
from tui.screens.small import MIN_COLUMNS, MIN_LINES, SmallScreen
from tui.workers.feed_worker import FeedWorker
from tui.workers.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from textual import events
    from textual.binding import BindingType
    from textual.filter import LineFilter

    from broker.forms.start_form import ProfileChoice
    from broker.schema.sessions import SessionView
    from tui.core.catalogue_action import CatalogueAction
    from tui.core.feed import SessionFeed
    from tui.messages import ConnectionChanged, SiteLearned

CLOCK_S = 60.0
"""Seconds between two looks at texts that depend on the time; only those that differ are drawn."""

PROFILES_AFTER_S = 3.0
"""Seconds until the first look at the published profiles: the list of sessions comes first."""
PROFILES_S = 3600.0
"""Seconds between two looks at the published profiles: new versions are rare, and a look reads the shared stores."""

_FEW_COLORS = frozenset({"linux", "vt100", "vt220", "ansi", "screen", "xterm"})
"""Values of TERM with 16 colours or less."""


class BerthApp(App[None], inherit_bindings=False):
    """`berth tui`. All input and output with the controller is made by workers; the application never waits."""

    BINDINGS: ClassVar[list[BindingType]] = []  # Textual's are ctrl+q, which terminals take, and ctrl+c
    ENABLE_COMMAND_PALETTE: ClassVar[bool] = False
    TITLE = "berth"

    def __init__(
        self,
        open_feed: Callable[[], SessionFeed],
        catalogue: Catalogue | None = None,
        *,
        settings: TuiSettings | None = None,
        settings_path: Path | None = None,
        warning: str = "",
        unicode: bool = True,
        read_profiles: Callable[[], Sequence[ProfileChoice]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`read_profiles` returns the published profiles; without it, newer versions are not known."""
        self._read_profiles = read_profiles
        self.settings = settings or TuiSettings()
        self.catalogue = catalogue or Catalogue()
        self.signs = UNICODE if unicode else ASCII
        self.clock = clock
        self.connection = ConnectionState()
        self.site = SiteFacts()
        self.has_news = False
        """Whether the sessions are known."""
        self.failure = ""
        """The traceback of an error in the program itself."""
        self._settings_path = settings_path
        self._warning = warning
        self._filter = AsciiFilter() if self.signs is ASCII else None
        super().__init__(ansi_color=True if "NO_COLOR" in os.environ else None)  # else Textual would show grey tones
        self.worker = FeedWorker(open_feed, self.post_message, clock)
        self.main_screen = SessionsScreen(self)
        self.animation_level = "none"
        for name, palette in ((THEME_DARK, DARK), (THEME_LIGHT, LIGHT)):
            self.register_theme(make_theme(name, palette))
        self.theme = self._theme_name()

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), *([self._filter] if self._filter else [])]

    def get_default_screen(self) -> SessionsScreen:
        return self.main_screen

    def on_mount(self) -> None:
        if not self.is_headless:
            self._quit_on_signals()
        if self._warning:
            self.notify(self._warning, severity="warning", markup=False)
        self.set_interval(CLOCK_S, self._tick)
        self.worker.start()

    def on_unmount(self) -> None:
        self.worker.stop()

    # The look

    def _theme_name(self) -> str:
        if self.no_color or (os.environ.get("TERM") in _FEW_COLORS and "COLORTERM" not in os.environ):
            return THEME_ANSI_DARK if self.settings.is_dark() else THEME_ANSI_LIGHT
        return THEME_DARK if self.settings.is_dark() else THEME_LIGHT

    def get_look(self) -> ScreenStyles:
        return LOOKS[self.theme]

    def next_theme(self) -> None:
        theme = THEMES[(THEMES.index(self.settings.theme) + 1) % len(THEMES)]
        self.keep(replace(self.settings, theme=theme))
        self.theme = self._theme_name()
        self.main_screen.restyle()
        self.notify(f"theme: {theme}", timeout=2, markup=False)

    def keep(self, settings: TuiSettings) -> None:
        """Use the settings, and save them."""
        self.settings = settings
        if self._settings_path is not None and (warning := save_settings(settings, self._settings_path)):
            self.notify(warning, severity="warning", markup=False)

    def redraw(self) -> None:
        """Draw every cell again, for a terminal on which something else has written."""
        self.screen.refresh(layout=True)
        self.refresh(layout=True)

    def on_resize(self, event: events.Resize) -> None:
        small = event.size.width < MIN_COLUMNS or event.size.height < MIN_LINES
        if small and not isinstance(self.screen, SmallScreen):
            self.push_screen(SmallScreen())
        elif not small and isinstance(self.screen, SmallScreen):
            self.pop_screen()

    # News of the worker

    def on_news_arrived(self) -> None:
        snapshot, change = self.worker.take()
        sessions = self.main_screen.sessions
        self.has_news |= snapshot is not None
        if snapshot is not None:
            self.main_screen.apply(sessions.replace(snapshot.sessions))
        if change.changed or change.removed:
            self.main_screen.apply(sessions.apply(change.changed, change.removed))

    def on_connection_changed(self, message: ConnectionChanged) -> None:
        self.connection = message.state
        self.main_screen.show_lines()

    def on_site_learned(self, message: SiteLearned) -> None:
        self._use_site(replace(message.site, newest=self.site.newest))
        if self._read_profiles is not None:
            self.run_worker(self._follow_profiles(self._read_profiles), group="profiles", exclusive=True)

    async def _follow_profiles(self, read: Callable[[], Sequence[ProfileChoice]]) -> None:
        """Learn the published versions, again and again. The last ones stay if the list cannot be read."""
        await asyncio.sleep(PROFILES_AFTER_S)
        while True:
            with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
                self._use_site(replace(self.site, newest=newest_versions(await in_thread(read))))
            await asyncio.sleep(PROFILES_S)

    def _use_site(self, site: SiteFacts) -> None:
        self.site = site
        self.main_screen.show_site(site)

    def reconnect(self) -> None:
        self.worker.reconnect()

    def _tick(self) -> None:
        if self.screen is self.main_screen:
            self.main_screen.show_times()

    # Actions

    def choices(self, targets: Sequence[SessionView]) -> list[Choice]:
        """Return the palette's entries, each with the reason why it is not possible now."""
        return [
            Choice(action.id, action.title, key_name(action.key), self.refusal(action, targets) or "")
            for action in self.catalogue.actions
        ]

    def refusal(self, action: CatalogueAction, targets: Sequence[SessionView]) -> str | None:
        """Return why the action is not possible now, for the first of the sessions for which it is not."""
        lost = self.connection.refusal(self.clock())
        if lost is not None:
            return lost
        for view in targets or (None,):
            reason = action.refusal(view)
            if reason is not None:
                return reason if view is None else f"{view.name}: {reason}"
        return None

    def run_catalogue_action(self, identifier: str, targets: list[SessionView]) -> None:
        """Run the action, or say at once why it is not possible."""
        action = self.catalogue.find(identifier)
        reason = self.refusal(action, targets)
        if reason is None:
            self.catalogue.run(self, action, targets)
        else:
            self.notify(escape_controls(f"{action.title}: {reason}"), severity="warning", markup=False)

    # The end

    def _quit_on_signals(self) -> None:
        """End with a restored terminal on signals that would end the process."""
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.exit)

    def action_quit(self) -> None:  # type: ignore[override]  # Textual's is a coroutine without need
        self.exit()

    def _handle_exception(self, error: Exception) -> None:
        """Keep the traceback for the log; Textual would print it over the user's terminal."""
        cause = error.error if isinstance(error, WorkerFailed) else error
        self.failure = self.failure or "".join(traceback.format_exception(cause))
        super()._handle_exception(error)

    def _print_error_renderables(self) -> None:
        self._exit_renderables.clear()
