"""`berth tui` over ssh through a link with 100 ms in each direction: one round trip for a key, none for a change."""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.delaying_relay import DOWN, UP, DelayingRelay
from tests.lab.tui_login import LoginNodeAccess
from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User

pytestmark = pytest.mark.waits
DELAY_S = 0.1
ROUND_TRIP_S = 2 * DELAY_S
QUIET_S = 3.0
"""Seconds without a byte after which the screen is drawn and the ssh connection is set up."""
IDLE_BYTES = 2048
"""The most that an idle screen may send in a minute, ssh's own bytes included."""
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/root", "TERM": "xterm-256color", "LC_CTYPE": "C.UTF-8"}
KEYS = 10
MANY_KEYS = 40


@pytest.fixture(scope="module")
def access(people: dict[str, User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNodeAccess]:
    opened = LoginNodeAccess.open(people["alice"], tmp_path_factory.mktemp("laptop"))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def waiting(people: dict[str, User]) -> Iterator[list[str]]:
    """Sessions whose jobs begin much later, and one that is ready and reports its use."""
    alice, names = people["alice"], ["link-a", "link-b", "link-c"]
    alice.ok("start", names[0], "--profile", "base", "--mem=300M")
    for name in names[1:]:
        alice.ok("start", name, "--profile", "base", "--no-wait", "--begin=now+4hours")
        alice.wait(name, "queued")
    yield names
    for name in names:
        alice.remove(name)


def open_tui(access: LoginNodeAccess, port: int) -> PseudoTerminal:
    """Return `ssh -t LOGIN berth tui` with the list on its screen, and nothing under way."""
    terminal = PseudoTerminal(access.ssh("berth", "tui", port=port), ENVIRONMENT, columns=118, lines=30)
    terminal.wait_for(lambda text: "q quit" in text and "link-c" in text and "connecting" not in text)
    terminal.wait_for(lambda _: not terminal.read(QUIET_S))
    return terminal


def chosen(text: str) -> str:
    """Return the name in the line that says which session is chosen."""
    return text.rstrip().splitlines()[-2].partition(":")[0]


@pytest.mark.usefixtures("waiting")
def test_key_echo_takes_one_round_trip(access: LoginNodeAccess) -> None:
    """By the order of the data: the laptop sends the key, and nothing else before the screen has changed."""
    with DelayingRelay(access.port, delay_s=DELAY_S) as relay, open_tui(access, relay.port) as terminal:
        times = []
        for number in range(KEYS):
            before, began = chosen(terminal.text()), time.monotonic()
            terminal.type("j" if number % 4 < 2 else "k")
            terminal.wait_for(lambda text, before=before: chosen(text) != before)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            times.append((time.monotonic() - began) / ROUND_TRIP_S)
            assert len(relay.pieces(UP, began)) == 1
            terminal.wait_for(lambda _: not terminal.read(ROUND_TRIP_S))
        print(f"a key takes {min(times):.2f} to {max(times):.2f} round trips until the screen has changed")
        assert 1 <= min(times) < 2
        terminal.type("q")
        assert terminal.wait_for_end() == 0


def test_changes_arrive_without_a_round_trip(
    access: LoginNodeAccess, alice: User, waiting: list[str], new_name: Callable[[str], str]
) -> None:
    assert waiting
    name = new_name("link-z")
    with DelayingRelay(access.port, delay_s=DELAY_S) as relay, open_tui(access, relay.port) as terminal:
        began = time.monotonic()
        alice.ok("start", name, "--profile", "base", "--no-wait", "--begin=now+4hours")
        terminal.wait_for(lambda text: re.search(rf"{name} +queued", text))
        assert relay.pieces(UP, began) == []
        assert sum(piece.size for piece in relay.pieces(DOWN, began)) < 4 * IDLE_BYTES
        terminal.type("q")
        assert terminal.wait_for_end() == 0


@pytest.mark.parametrize("seconds", [20, pytest.param(180, marks=pytest.mark.soak)])
@pytest.mark.usefixtures("waiting")
def test_idle_screen_sends_almost_nothing(access: LoginNodeAccess, seconds: int) -> None:
    with DelayingRelay(access.port, delay_s=DELAY_S) as relay, open_tui(access, relay.port) as terminal:
        assert relay.pieces(DOWN)
        began = time.monotonic()
        terminal.read(seconds)
        sent = sum(piece.size for piece in relay.pieces(DOWN, began))
        print(f"an idle screen has sent {sent} bytes in {seconds} s")
        assert sent < IDLE_BYTES * seconds / 60
        terminal.type("q")
        assert terminal.wait_for_end() == 0


@pytest.mark.usefixtures("waiting")
def test_stalls_change_neither_order_nor_screen(access: LoginNodeAccess) -> None:
    """Keys are typed without waiting over a link that stalls: the screen is that of an undisturbed terminal."""
    numbers = random.Random(1)  # noqa: S311 - the same keys and stalls in every run
    keys = "".join(numbers.choices("jkGg ", k=MANY_KEYS))
    with DelayingRelay(access.port, delay_s=DELAY_S, stalls=numbers) as relay:
        seen = []
        for port in (relay.port, access.port):
            with open_tui(access, port) as terminal:
                for key in keys:
                    terminal.type(key)
                    terminal.read(0.01)
                terminal.wait_for(lambda _, terminal=terminal: not terminal.read(QUIET_S))  # type: ignore[misc]  # as above
                seen.append((chosen(terminal.text()), [line.split()[:2] for line in terminal.text().splitlines()[1:6]]))
                terminal.type("q")
                assert terminal.wait_for_end() == 0
        assert seen[0] == seen[1]
