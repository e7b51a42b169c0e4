"""`berth tui` in a terminal: it starts, follows the window and the controller, and leaves the terminal as it was."""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.deadlines import DEADLINE_S
from tests.short_form import pairs
from tui.screens.small import TOO_SMALL

if TYPE_CHECKING:
    from tests.fakes.tui_site import TuiSite
    from tests.pseudo_terminal import PseudoTerminal

QUIET_S = 1.5
"""Seconds without output after which a screen counts as drawn."""


def assert_intact(terminal: PseudoTerminal) -> None:
    assert terminal.modes_left_on() == []
    assert terminal.is_cursor_shown()
    assert terminal.has_settings_of_before()


@pytest.mark.parametrize("key", ["q", "\x03"], ids=["q", "ctrl-c"])
def test_starts_and_quits(standing_site: TuiSite, key: str) -> None:
    with standing_site.open() as terminal:
        terminal.wait_for_text("s00001")
        assert {"mouse", "alternate screen"} <= set(terminal.modes_left_on())
        terminal.type(key)
        assert terminal.wait_for_end() == 0
        assert_intact(terminal)


def test_opens_at_once_without_a_controller_and_finds_it_later(site: TuiSite) -> None:
    with site.open() as terminal:
        terminal.wait_for_text("trying again")
        assert "the controller does not answer" in terminal.text()
        site.start_controller()
        terminal.wait_for_text("s00001")
        terminal.wait_for(lambda text: "trying again" not in text)
        terminal.type("q")
        assert terminal.wait_for_end() == 0


TERMS = ("xterm", "xterm-256color", "linux", "screen", "tmux-256color", "vt100")
TERMINAL_SIZES = ((20, 5), (59, 14), (80, 24), (250, 70))


@pytest.mark.parametrize(("term", "size"), pairs(TERMS, TERMINAL_SIZES))
def test_every_terminal_and_size_starts_and_quits(standing_site: TuiSite, term: str, size: tuple[int, int]) -> None:
    columns, lines = size
    with standing_site.open(columns=columns, lines=lines, variables={"TERM": term, "COLORTERM": None}) as terminal:
        small = columns < 60 or lines < 15
        terminal.wait_for(lambda text: TOO_SMALL[:15] in " ".join(text.split()) if small else "s00001" in text)
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        assert_intact(terminal)
        if term == "linux":
            assert terminal.output.isascii()


@pytest.mark.parametrize(
    "variables",
    [
        {"LC_CTYPE": "", "LANG": "C"},
        {"LC_ALL": "C"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"},
        {"TERM": "linux"},
    ],
    ids=["lang", "c", "latin-1", "linux"],
)
def test_terminal_without_unicode_gets_ascii(standing_site: TuiSite, variables: dict[str, str]) -> None:
    with standing_site.open(columns=130, variables=variables) as terminal:
        terminal.wait_for_text("s00001")
        terminal.wait_for(lambda text: "------ 1 min" in text)
        terminal.type("?")
        terminal.wait_for_text("start a new session")
        terminal.type("qq")
        assert terminal.wait_for_end() == 0
        assert terminal.output.isascii()


def test_lc_ctype_alone_is_enough_for_unicode(standing_site: TuiSite) -> None:
    with standing_site.open(variables={"LC_CTYPE": "C.UTF-8"}) as terminal:
        terminal.wait_for_text("░░░░░░ 1 min")
        terminal.type("q")
        terminal.wait_for_end()


def test_no_color_sends_no_color(standing_site: TuiSite) -> None:
    with standing_site.open(variables={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for_text("s00001")
        terminal.type("?")
        terminal.wait_for_text("start a new session")
        terminal.type("qq")
        terminal.wait_for_end()
        for sequence in (b"38;2", b"48;2", b"38;5", b"48;5", b"\x1b[31m", b"\x1b[32m", b"\x1b[36m"):
            assert sequence not in terminal.output
        assert re.search(rb"\x1b\[(\d+;)*7[;m]", terminal.output)


def test_keys_that_arrive_together_act_in_their_order(standing_site: TuiSite) -> None:
    """A terminal sends a pasted or buffered line at once: none of its letters acts on the list."""
    with standing_site.open() as terminal:
        terminal.wait_for_text("s00001")
        terminal.type("jj /s00002\r")
        terminal.wait_for_text("filter 's00002' shows 1 | 1 marked")
        terminal.type(":time limit")
        terminal.wait_for(lambda text: re.search(r"actions \(type to search.*\n *time limit$", text, re.MULTILINE))
        terminal.type("\x1b")
        terminal.wait_for_text("NAME")
        terminal.type("q")
        assert terminal.wait_for_end() == 0


def test_fifty_resizes_leave_the_screen_of_the_last_size(standing_site: TuiSite) -> None:
    with standing_site.open() as terminal:
        terminal.wait_for_text("s00001")
        for step in range(50):
            terminal.resize(40 + step * 37 % 200, 8 + step * 11 % 60)
            terminal.read(0.02)
        terminal.resize(80, 24)
        terminal.wait_for(lambda text: "q quit" in text.splitlines()[-1] and "s00001" in text)
        resized = terminal.wait_for(lambda _: not terminal.read(QUIET_S))
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        assert_intact(terminal)
    with standing_site.open() as terminal:
        terminal.wait_for(lambda text: text == resized)  # what is asked after the start is shown when it comes


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda each: each.name)
def test_signals_leave_the_terminal_intact(standing_site: TuiSite, number: signal.Signals) -> None:
    with standing_site.open() as terminal:
        terminal.wait_for_text("s00001")
        os.kill(terminal.pid, number)
        terminal.wait_for_end()
        assert_intact(terminal)


def test_hangup_of_the_terminal_ends_the_program(standing_site: TuiSite) -> None:
    terminal = standing_site.open()
    terminal.wait_for_text("s00001")
    os.close(terminal.descriptor)
    deadline = time.monotonic() + DEADLINE_S
    while terminal.status is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        terminal._poll()


def test_killed_and_restarted_controller_is_found_again(site: TuiSite) -> None:
    site.start_controller()
    with site.open() as terminal:
        terminal.wait_for_text("s00002             stopped")
        site.kill_controller()
        terminal.wait_for_text("trying again")
        terminal.type("jjs")
        terminal.wait_for(lambda text: "log in with ssh, and return" in text and "s00002: stopped" in text)
        site.start_controller()
        terminal.type("\x12")
        terminal.wait_for(lambda text: "trying again" not in text)
        site.change("s00002", "failed")
        terminal.wait_for_text("s00002             failed")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        assert_intact(terminal)


def test_hung_controller_is_noticed_and_quitting_works(site: TuiSite) -> None:
    site.start_controller()
    with site.open() as terminal:
        terminal.wait_for_text("s00001")
        site.signal_controller(signal.SIGSTOP)
        terminal.wait_for_text("trying again")
        terminal.type("j")
        terminal.wait_for_text("> s00001")
        site.signal_controller(signal.SIGCONT)
        terminal.wait_for(lambda text: "trying again" not in text)
        site.signal_controller(signal.SIGSTOP)
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        assert_intact(terminal)


def test_idle_screen_sends_nothing_and_a_change_a_few_bytes(site: TuiSite) -> None:
    site.start_controller()
    with site.open(columns=118, lines=40) as terminal:
        terminal.wait_for_text("s00001")
        terminal.wait_for(lambda _: not terminal.read(QUIET_S))
        assert terminal.read(5) == 0
        before = len(terminal.output)
        site.change("s00002", "ready")
        terminal.wait_for_text("s00002             ready")
        terminal.read(QUIET_S)
        assert 0 < len(terminal.output) - before <= 2048


def test_ssh_runs_in_place_and_the_list_returns(site: TuiSite) -> None:
    """`berth ssh` fails here, because no session runs: its message stays until Enter is pressed."""
    site.start_controller()
    with site.open() as terminal:
        terminal.wait_for_text("s00001")
        terminal.type("s")
        terminal.wait_for_text("$ berth ssh s00000")
        terminal.wait_for_text("Press Enter")
        assert "mouse" not in terminal.modes_left_on()
        assert terminal.has_settings_of_before()
        site.change("s00001", "failed")
        before = len(terminal.output)
        terminal.type("\r")
        terminal.wait_for_text("s00001             failed")
        terminal.wait_for(lambda _: b"q quit" in terminal.output[before:])
        assert all(f"s{number:05}".encode() in terminal.output[before:] for number in range(20))
        terminal.type("j")
        terminal.wait_for_text("> s00001")
        terminal.type("q")
        assert terminal.wait_for_end() == 0
        assert_intact(terminal)


def test_redraw_sends_every_line(standing_site: TuiSite) -> None:
    with standing_site.open() as terminal:
        terminal.wait_for_text("s00001")
        terminal.wait_for(lambda _: not terminal.read(QUIET_S))
        before = len(terminal.output)
        terminal.type("\x0c")
        terminal.wait_for(lambda _: b"q quit" in terminal.output[before:])
        assert all(f"s{number:05}".encode() in terminal.output[before:] for number in range(20))


@pytest.mark.parametrize("arguments", [("--plain",), ()], ids=["option", "dumb"])
def test_plain_mode_prints_lines_only(site: TuiSite, arguments: tuple[str, ...]) -> None:
    site.start_controller(3)
    with site.open(*arguments, lines=60, variables={"TERM": "xterm" if arguments else "dumb"}) as terminal:
        terminal.wait_for_text("berth>")
        terminal.type("1\n")
        terminal.wait_for_text("Session s00000")
        terminal.type("q\n")
        assert terminal.wait_for_end() == 0
        assert b"\x1b" not in terminal.output
        assert_intact(terminal)
