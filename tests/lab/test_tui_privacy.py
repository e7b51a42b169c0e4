"""`berth tui` shows a user neither other users' sessions nor what a hostile text would do to the terminal."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User

ENVIRONMENT = {"TERM": "xterm-256color", "LC_CTYPE": "C.UTF-8"}
MACHINE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
TITLE = b"\x1b]0;evil\x07"
"""Sets the terminal's title (ctlseqs, OSC)."""
HOSTILE = "\\033]0;evil\\007\\033[2J\\033[31mred\\033[1;1H\\215"
"""The same and more for printf(1): erases the screen, colours, moves the cursor, and a C1 control."""
SHOWN = r"\x1b]0;evil\x07\x1b[2J\x1b[31mred\x1b[1;1H"


@pytest.fixture(scope="module")
def session(people: dict[str, User]) -> Iterator[str]:
    """A ready session of alice's on c1."""
    alice, name = people["alice"], "veryprivate"
    alice.ok("start", name, "--profile", "base", "--mem=300M", "--nodelist=c1")
    yield name
    alice.remove(name)


def open_tui(user: User) -> PseudoTerminal:
    command = user.site.lab.argv(["berth", "tui"], user=user.name, env=ENVIRONMENT)
    terminal = PseudoTerminal(command, MACHINE, columns=160, lines=40)
    terminal.wait_for(lambda text: re.match(r"berth  \d+ session", text) and "connecting" not in text)
    return terminal


def quit_tui(terminal: PseudoTerminal) -> None:
    terminal.type("q")
    assert terminal.wait_for_end() == 0


def test_stream_and_cluster_name_no_session_of_others(alice: User, bob: User, session: str) -> None:
    """Bob sees which nodes there are, and not which one alice's session is on."""
    view = alice.show(session)
    stream = bob.request("/v1/sessions/watch", "-H", "Accept: text/event-stream", "-m", "3")[1]
    assert '"sessions":[]' in stream
    status, cluster = bob.request("/v1/cluster")
    assert status == HTTPStatus.OK, cluster
    nodes = json.loads(cluster)["nodes"]
    assert [node["name"] for node in nodes] == ["c1", "c2", "c3"]
    for secret in (session, view["id"], view["endpoint"]["fingerprint"], f'"job_id":{view["job_id"]},'):
        assert secret not in stream
        assert secret not in cluster
    for secret in ("c1", "alice"):
        assert secret not in stream
    assert "alice" not in json.dumps(nodes)


def test_interface_shows_no_session_of_others(bob: User, session: str) -> None:
    with open_tui(bob) as terminal:
        terminal.wait_for_text("no sessions yet")
        terminal.type("F")
        terminal.wait_for_text("c3")
        terminal.type("\x1b")
        terminal.wait_for_text("q quit")
        terminal.type("U")
        terminal.wait_for(lambda text: "there is none that can be restored" in text or "Session: one of" in text)
        terminal.type("\x1b")
        terminal.wait_for_text("q quit")
        quit_tui(terminal)
        assert session.encode() not in terminal.output


def test_hostile_texts_have_no_effect(alice: User, session: str) -> None:
    """In the log, in a file's name, and in the reason of a drained node."""
    lab, view = alice.site.lab, alice.show(session)
    lab.sh(f"printf '{HOSTILE}\\n' >>/shared/berth/alice/sessions/{view['id']}/run/job.log", user="alice")
    alice.laptop.ok(session, f"touch \"$(printf '{HOSTILE}')\"")
    lab.sh(f"scontrol update nodename=c1 state=drain reason=\"$(printf '{HOSTILE}')\"")
    try:
        alice.until(session, lambda view: bool(view["node_condition"]), what="the condition of the node")
        with open_tui(alice) as terminal:
            terminal.wait_for_text(f"> {session}")
            terminal.wait_for_text("evil")
            for key, shown in (("l", SHOWN), ("f\r", "evil"), ("F", "evil"), ("w", "evil"), ("\r", "evil")):
                terminal.type(key)
                terminal.wait_for(lambda text, shown=shown: "q quit" not in text and shown in text)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                terminal.type("\x1b")
                terminal.wait_for_text("q quit")
            quit_tui(terminal)
            assert terminal.screen.title != "evil"
            assert TITLE not in terminal.output
            assert b"\x1b[31mred" not in terminal.output
            assert "\x8d" not in terminal.output.decode(errors="replace")
    finally:
        lab.sh("scontrol update nodename=c1 state=resume")
