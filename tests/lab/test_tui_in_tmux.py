"""`berth tui` over ssh in tmux: a session's whole life by keys, while what the interface stands on goes away.

In `make test`, one life has one disturbance of each kind. `make soak` has each kind before every step.
"""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.lab.services import restart
from tests.lab.tui_journey import TuiJourney
from tests.lab.tui_login import TRYING_AGAIN, LoginNodeAccess, LoginTerminal
from tests.lab_cluster import wait_for
from tests.short_form import pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

    Disturbance = Callable[[Site, LoginTerminal], None]

pytestmark = pytest.mark.waits
SILENCE_S = 90.0
"""Seconds in which the interface notices a controller that hangs: three heartbeats, on a busy machine."""
SMALLER, LARGER = (80, 24), (200, 50)


@pytest.fixture(scope="module")
def access(people: dict[str, User], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNodeAccess]:
    opened = LoginNodeAccess.open(people["alice"], tmp_path_factory.mktemp("laptop"))
    yield opened
    opened.close()


@pytest.fixture
def terminal(access: LoginNodeAccess) -> Iterator[LoginTerminal]:
    with LoginTerminal(access) as opened:
        yield opened


# Disturbances: each is over on return, and the list is live again.


def kill_controller(site: Site, terminal: LoginTerminal) -> None:
    """The interface says that the list is old, and finds the next controller."""
    site.kill("broker", "KILL")
    terminal.wait_for_text(TRYING_AGAIN)
    terminal.type("n")
    terminal.wait_for_text("start a new session: the controller")
    restart(site)
    terminal.press("C-r")
    terminal.wait_until_live()


def stop_controller(site: Site, terminal: LoginTerminal) -> None:
    """A controller that hangs is noticed by its silence."""
    pid = site.controller_pid()
    site.lab.sh(f"kill -STOP {pid}")
    try:
        terminal.wait_for_text(TRYING_AGAIN, deadline_s=SILENCE_S)
    finally:
        site.lab.sh(f"kill -CONT {pid}")
    terminal.press("C-r")
    terminal.wait_until_live()


def restart_controller(site: Site, terminal: LoginTerminal) -> None:
    """An orderly restart needs no key."""
    site.kill("broker")
    restart(site)
    terminal.wait_until_live()


def stop_slurmctld(site: Site, terminal: LoginTerminal) -> None:
    """A question mark after the state says that Slurm does not answer. Sessions without a job have no such state."""
    with site.lab.paused("slurmctld"):
        if "ready" in terminal.text():
            terminal.wait_for_text("ready?")
    terminal.wait_for(lambda text: "ready?" not in text, what="fresh states")


def resize(_site: Site, terminal: LoginTerminal) -> None:
    for columns, lines in (SMALLER, LARGER, (120, 40)):
        terminal.resize(columns, lines)
        terminal.wait_for(lambda text, lines=lines: "q quit" in _line(text, lines), what="the list in the new size")  # type: ignore[misc]  # mypy cannot infer a lambda with a default


def _line(text: str, number: int) -> str:
    """Return a line of the window, the first one of number 1."""
    lines = text.splitlines()
    return lines[number - 1] if len(lines) >= number else ""


DISTURBANCES = (kill_controller, stop_controller, restart_controller, stop_slurmctld, resize)
ONE_OF_EACH = {
    "log_in_and_return": resize,
    "take_snapshot": kill_controller,
    "roll_back": stop_slurmctld,
    "make_clone": stop_controller,
    "switch_clone": restart_controller,
}
"""Step → the disturbance before it."""


def travel(journey: TuiJourney, site: Site, disturb: Callable[[str], Disturbance | None]) -> None:
    """Go through all steps, and quit."""
    terminal = journey.terminal
    terminal.open_tui()
    for step in journey.steps():
        if (disturbance := disturb(step.__name__)) is not None:
            disturbance(site, terminal)
        step()
    terminal.type("q")
    terminal.assert_intact()


def test_a_whole_life_by_keys(
    crashing: Site, terminal: LoginTerminal, alice: User, other: str, new_name: Callable[[str], str]
) -> None:
    assert other
    travel(TuiJourney(terminal, alice, new_name("life"), new_name("twin")), crashing, ONE_OF_EACH.get)


@pytest.mark.soak
@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda each: each.__name__)
def test_a_whole_life_with_disturbances(  # noqa: PLR0917 - fixtures
    crashing: Site,
    terminal: LoginTerminal,
    alice: User,
    other: str,
    new_name: Callable[[str], str],
    disturbance: Disturbance,
) -> None:
    assert other
    journey = TuiJourney(terminal, alice, new_name("life"), new_name("twin"))
    travel(journey, crashing, lambda _: disturbance)


@pytest.fixture(scope="module")
def ready(people: dict[str, User]) -> Iterator[str]:
    """A ready session of alice's that no interrupted key changes."""
    alice, name = people["alice"], "interrupted"
    alice.ok("start", name, "--profile", "base", "--mem=300M")
    yield name
    alice.remove(name)


def state_of_all(user: User) -> list[tuple[object, ...]]:
    """Return what an action could change: sessions, states, operations, runs and snapshots."""
    _, body = user.request("/v1/sessions")
    return [
        (view["name"], view["state"], view["operation"], view["generation"], view["stop_at"], numbers_of(user, view))
        for view in json.loads(body)["sessions"]
    ]


def numbers_of(user: User, view: dict[str, object]) -> list[int]:
    """Return the numbers of the session's snapshots."""
    _, body = user.request(f"/v1/sessions/{view['name']}/snapshots")
    return [each["number"] for each in json.loads(body)["snapshots"]]


POINTS: dict[str, tuple[tuple[str, str], ...]] = {
    "list": (),
    "filter": (("/", "filter: words"), ("inter", "filter 'inter'")),
    "actions": ((":", "log in with ssh, and return"),),
    "details": (("Enter", "session interrupted"),),
    "form": (("n", "New session"), ("half", "half"), ("Tab", ""), ("base", "$ berth start half")),
    "question": (("x", "y yes"),),
    "log": (("l", "Esc closes"),),
    "snapshots": (("t", "present state"),),
}
"""The points at which the interface is interrupted: keys, and a text that is shown after each."""


@pytest.mark.parametrize(("point", "how"), pairs(POINTS, ["ctrl-c", "HUP", "TERM"]))
def test_interrupted_interface_leaves_terminal_and_sessions(
    terminal: LoginTerminal, alice: User, ready: str, point: str, how: str
) -> None:
    before = state_of_all(alice)
    terminal.open_tui()
    terminal.choose(ready)
    for key, shown in POINTS[point]:
        (terminal.press if key in {"Enter", "Tab"} else terminal.type)(key)
        terminal.wait_for_text(shown)
    interrupt(terminal, how)
    terminal.wait_for_no_tui()
    terminal.assert_intact()
    assert state_of_all(alice) == before


def interrupt(terminal: LoginTerminal, how: str) -> None:
    if how == "ctrl-c":
        terminal.press("C-c")
    else:
        terminal.signal_tui(how)


@pytest.mark.parametrize("how", ["ctrl-c", "HUP"])
def test_request_under_way_is_carried_out_whole_or_not_at_all(
    site: Site, terminal: LoginTerminal, alice: User, ready: str, how: str
) -> None:
    """The controller hangs when the request comes, and reads it after the interface has ended."""
    before = numbers_of(alice, {"name": ready})
    terminal.open_tui()
    terminal.choose(ready)
    terminal.type("S")
    terminal.wait_for_text("Snapshot")
    pid = site.controller_pid()
    site.lab.sh(f"kill -STOP {pid}")
    try:
        terminal.press("Enter")
        terminal.wait_for_text("take a snapshot: sent")
        interrupt(terminal, how)
        terminal.wait_for_no_tui()
        terminal.assert_intact()
    finally:
        site.lab.sh(f"kill -CONT {pid}")
    view = alice.until(ready, lambda view: (view["operation"] or {}).get("status") != "pending", what="no operation")
    operation, after = view["operation"], numbers_of(alice, view)
    if after == before:
        assert operation is None or operation["snapshot"] in before
    else:
        assert after == [*before, operation["snapshot"]]
        assert operation["status"] == "done"


def test_broken_connection_ends_the_interface_and_its_ssh(access: LoginNodeAccess, alice: User, ready: str) -> None:
    """The laptop's ssh dies while the user is logged in to the session from the interface."""
    before = state_of_all(alice)
    lab = alice.site.lab
    log = "stat -c %s ~/.local/state/berth/tui.log || echo 0"
    faults = lab.sh(log, user="alice")
    with LoginTerminal(access) as terminal:
        terminal.open_tui()
        terminal.choose(ready)
        terminal.type("s")
        terminal.wait_for_text(f"$ berth ssh {ready}")
        wait_for(lambda: lab.run(["pgrep", "-u", "alice", "-x", "ssh"]).returncode == 0, what="ssh to the session")
        os.kill(terminal.pid(), signal.SIGKILL)
        terminal.wait_for_no_tui()
        wait_for(lambda: lab.run(["pgrep", "-u", "alice", "-x", "ssh"]).returncode == 1, what="the end of ssh")
    assert state_of_all(alice) == before
    assert lab.sh(log, user="alice") == faults


def test_ctrl_c_during_ssh_is_for_the_session_alone(terminal: LoginTerminal, ready: str) -> None:
    terminal.open_tui()
    terminal.choose(ready)
    terminal.type("s")
    terminal.wait_for_text(f"$ berth ssh {ready}")
    terminal.wait_for(lambda text: text.rstrip().endswith(("$", "#", ">", "%")), what="a shell's prompt")
    terminal.type("echo beg''un; sleep 1000")
    terminal.press("Enter")
    terminal.wait_for_text("begun")
    terminal.press("C-c")
    terminal.type("echo st''ill here")
    terminal.press("Enter")
    terminal.wait_for_text("still here")
    terminal.type("exit 0")
    terminal.press("Enter")
    terminal.wait_for_text("q quit")
    terminal.type("q")
    terminal.assert_intact()
