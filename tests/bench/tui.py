"""`tui-paint`, `tui-change`, `tui-memory`, `tui-start`: `berth tui` in a terminal, against plain Textual applications.

Both sides run on this machine over the same scripted controller; neither Slurm nor the lab is part of it.
"""

from __future__ import annotations

import contextlib
import random
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import in_turns
from tests.bench.report import Result, Target, result
from tests.bench.tui_peers import READY
from tests.fakes.tui_site import TuiSite, tui_site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.bench.ground import Ground
    from tests.pseudo_terminal import PseudoTerminal

PAINT, CHANGE, MEMORY, START = "tui-paint", "tui-change", "tui-memory", "tui-start"
TARGETS = {PAINT: Target(0.25), CHANGE: Target(0.2), MEMORY: Target(2.0), START: Target(1.5)}
MANY, FEW = 10_000, 3
FIRST = "s00000"
OURS, EMPTY, TABLE, POLLING = "ours", "empty", "table", "polling"


@contextlib.contextmanager
def scripted_site(count: int) -> Iterator[TuiSite]:
    """Provide a site whose controller has so many sessions."""
    with tempfile.TemporaryDirectory() as name, tui_site(Path(name)) as site:
        site.start_controller(count)
        yield site


def _open(site: TuiSite, side: str) -> PseudoTerminal:
    """Start one of the programs in a terminal."""
    return site.run(["tui"] if side == OURS else ["tests.bench.tui_peers", side, str(site.socket)])


def _paint(site: TuiSite, side: str) -> float:
    """Return the seconds from the start of the program to its first screen with content."""
    began = time.monotonic()
    with _open(site, side) as terminal:
        terminal.wait_for_text(READY if side == EMPTY else FIRST)
        return time.monotonic() - began


def _memory(site: TuiSite, side: str) -> float:
    """Return the resident memory in MB when the screen is painted and the program rests."""
    with _open(site, side) as terminal:
        terminal.wait_for_text(READY if side == EMPTY else FIRST)
        terminal.wait_for(lambda _: not terminal.read(1.0))
        status = Path(f"/proc/{terminal.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _change(site: TuiSite, terminal: PseudoTerminal) -> float:
    """Return the seconds from a change at the controller to the painted cell."""
    terminal.read(1.0 + random.random())  # noqa: S311 - a phase of the peer's interval
    line = next(each for each in terminal.text().splitlines() if "s00001" in each)
    state = "stopped" if "failed" in line else "failed"
    began = time.monotonic()
    site.change("s00001", state)
    terminal.wait_for(lambda text: re.search(rf"s00001 +{state}", text))
    return time.monotonic() - began


def measure_paint(ground: Ground, runs: int) -> Result:
    """10,000 sessions: from the command to the first painted screen, against Textual's DataTable."""
    del ground
    with scripted_site(MANY) as site:
        return _compare(PAINT, "s", runs, lambda: _paint(site, OURS), lambda: _paint(site, TABLE))


def measure_start(ground: Ground, runs: int) -> Result:
    """3 sessions: from the command to the first painted screen, against an empty application."""
    del ground
    with scripted_site(FEW) as site:
        return _compare(START, "s", runs, lambda: _paint(site, OURS), lambda: _paint(site, EMPTY))


def measure_memory(ground: Ground, runs: int) -> Result:
    """10,000 sessions, against an empty application."""
    del ground
    with scripted_site(MANY) as site:
        return _compare(MEMORY, "MB", runs, lambda: _memory(site, OURS), lambda: _memory(site, EMPTY))


def measure_change(ground: Ground, runs: int) -> Result:
    """From a change at the controller to the painted cell, against a table that asks each second."""
    del ground
    with scripted_site(FEW) as site, _open(site, OURS) as ours, _open(site, POLLING) as peer:
        for terminal in (ours, peer):
            terminal.wait_for_text(FIRST)
        return _compare(CHANGE, "s", runs, lambda: _change(site, ours), lambda: _change(site, peer))


def _compare(name: str, unit: str, runs: int, ours: Callable[[], float], peer: Callable[[], float]) -> Result:
    each = in_turns({"ours": ours, "peer": peer}, runs, name=name, unit=unit)
    return result(name, each["ours"], each["peer"], unit, TARGETS[name])
