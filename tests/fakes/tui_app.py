"""The terminal interface in memory, for tests: its keys are pressed, and its screen is read as text and styles."""

from __future__ import annotations

import asyncio
import string
from typing import TYPE_CHECKING, Any

from textual.events import Key
from textual.keys import _character_to_key

from tests.deadlines import DEADLINE_S
from tests.fakes.tui_feed import NOW, DrivenFeed
from tui.app import BerthApp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rich.segment import Segment
    from textual.pilot import Pilot

    from broker.schema.sessions import SessionView
    from tui.catalogue import Catalogue


class TuiTest:
    """A running interface, its feed, and a pilot that presses keys."""

    def __init__(self, app: BerthApp, feed: DrivenFeed, pilot: Pilot[None]) -> None:
        self.app = app
        self.feed = feed
        self.pilot = pilot

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def press_at_once(self, text: str) -> None:
        """Press keys as they arrive from a slow line or a paste program: all before the first one has its effect."""
        for char in text:
            key = {"\r": "enter", "\x1b": "escape"}.get(char) or _character_to_key(char)
            self.app.post_message(Key(key, char))
        await self.pilot.pause()

    async def until(self, condition: Callable[[], Any]) -> None:
        """Return when the condition is true."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await self.pilot.pause(0.01)
        await self.pilot.pause()

    async def until_shown(self, text: str) -> None:
        await self.until(lambda: text in self.text())

    def lines(self) -> list[list[Segment]]:
        """The lines of the screen as the driver would send them, after the filters."""
        return [list(strip) for strip in self.app.screen._compositor.render_strips()]

    def text(self) -> str:
        return "\n".join("".join(part.text for part in line).rstrip() for line in self.lines())

    def notices(self) -> str:
        """The texts of the notices that are shown."""
        return "\n".join(notice.message for notice in self.app._notifications)

    def styles(self) -> str:
        """The styles of the cells: `a12 b3` is twelve cells in the style `a` and three in `b`, of a legend above."""
        legend: dict[str, str] = {}
        rows = []
        for line in self.lines():
            runs: list[tuple[str, int]] = []
            for part in line:
                name = describe_style(part)
                sign = legend.setdefault(name, string.ascii_letters[len(legend)])
                cells = part.cell_length
                if runs and runs[-1][0] == sign:
                    cells += runs.pop()[1]
                runs.append((sign, cells))
            rows.append(" ".join(f"{sign}{cells}" for sign, cells in runs))
        return "\n".join([*(f"{sign}: {name}" for name, sign in legend.items()), "", *rows])


def describe_style(part: Segment) -> str:
    """Describe foreground, background and attributes of a part of a line."""
    style = part.style
    if style is None:
        return "default"
    attributes = [name for name in ("bold", "dim", "italic", "underline", "reverse") if getattr(style, name)]
    foreground = style.color.name if style.color else "default"
    background = style.bgcolor.name if style.bgcolor else "default"
    return " ".join([foreground, "on", background, *attributes])


def run_tui(
    scenario: Callable[[TuiTest], Awaitable[None]],
    views: Sequence[SessionView] = (),
    *,
    size: tuple[int, int] = (80, 24),
    catalogue: Catalogue | None = None,
    feed: DrivenFeed | None = None,
    **options: Any,  # noqa: ANN401 - options of BerthApp
) -> None:
    """Run a scenario over an interface with these sessions, whose clock stands at NOW."""

    async def run() -> None:
        driven = feed or DrivenFeed(views)
        options.setdefault("unicode", True)
        app = BerthApp(driven.open, catalogue, clock=lambda: NOW, **options)
        async with app.run_test(size=size) as pilot:
            test = TuiTest(app, driven, pilot)
            if driven.reachable:
                await test.until(lambda: app.has_news)
            await scenario(test)

    asyncio.run(run())
