"""The role `pair`, with real sshd and tmux: a guest types only where, and while, the owner lets them."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from broker.schema.grants import Role
from tests.fakes.session_container import GUEST_LOGIN, OWNER
from tests.lab_cluster import wait_for
from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.component.job.guest_scene import Scene

KEY = "\x1b[24~"
"""F12: the owner's key and the guest's."""
TYPES = "you type as the owner"


@pytest.fixture
def pair(scene: Scene) -> Scene:
    scene.admit("bob", role=Role.PAIR)
    return scene


@contextlib.contextmanager
def attached(scene: Scene) -> Iterator[PseudoTerminal]:
    """Alice's terminal, in which she sees what she shows."""
    argv = scene.session.ssh(scene.session.base / "owner", "-tt", login=OWNER)
    with PseudoTerminal([*argv, f"{scene.server} attach -t main"], os.environ, lines=25) as alice:
        alice.wait_for_text("[main]")
        yield alice


@contextlib.contextmanager
def typing(scene: Scene) -> Iterator[tuple[PseudoTerminal, PseudoTerminal]]:
    """Alice looks at the terminal, and has given the keyboard to bob."""
    with attached(scene) as alice, scene.watch(options=["-o", "EscapeChar=none"]) as bob:
        bob.wait_for_text("i asks for the keyboard")
        alice.wait_for_text("F12 gives them the keyboard")
        alice.type(KEY)
        bob.wait_for_text(TYPES)
        yield alice, bob


def screen(scene: Scene) -> str:
    return scene.tmux("capture-pane -p -t main")


def holder(scene: Scene) -> str:
    return scene.tmux("show-options -pqv -t main @berth_keyboard").strip()


def type_in_vain(scene: Scene, bob: PseudoTerminal) -> None:
    """Send each kind of input past bob's own program: the writer and tmux must refuse it by themselves."""
    before = (screen(scene), scene.tmux("list-panes -a -F '#{pane_id} #{pane_in_mode} #{cursor_x}'"))
    sockets = list((scene.session.node / "shown").glob("*.sock"))
    assert len(sockets) == 1
    bob.type("echo in-vain\r")
    bob.read(0.3)
    after = (screen(scene), scene.tmux("list-panes -a -F '#{pane_id} #{pane_in_mode} #{cursor_x}'"))
    assert after == before


class TestKeyboard:
    def test_owner_gives_and_takes_the_keyboard_with_one_key(self, pair: Scene) -> None:
        with typing(pair) as (alice, bob):
            alice.wait_for_text("bob types - F12: take back")
            bob.type("echo by-$((20+3))-bob\r")
            alice.wait_for_text("by-23-bob")
            bob.wait_for_text("by-23-bob")
            alice.type(KEY)
            wait_for(lambda: holder(pair) == "", what="the key")
            type_in_vain(pair, bob)
            alice.wait_for_text("the keyboard is yours alone")
            bob.wait_for_text("i asks for the keyboard")
            alice.type(KEY)
            bob.wait_for_text(TYPES)

    def test_guest_asks_for_it_and_gives_it_back(self, pair: Scene) -> None:
        with typing(pair) as (alice, bob):
            bob.type(KEY)
            bob.wait_for_text("i asks for the keyboard")
            assert holder(pair) == ""
            bob.type("i")
            alice.wait_for_text("bob asks for the keyboard: F12 gives it")
            type_in_vain(pair, bob)

    def test_owner_who_is_away_cannot_be_typed_for(self, pair: Scene) -> None:
        with pair.watch() as bob:
            bob.wait_for_text("i asks for the keyboard")
            pair.tmux("set-option -p -t main @berth_keyboard bob")
            type_in_vain(pair, bob)
            wait_for(lambda: holder(pair) == "", what="the keyboard to be taken back")

    def test_input_stops_when_the_owner_detaches_and_stays_stopped(self, pair: Scene) -> None:
        with typing(pair) as (alice, bob):
            bob.type("cat\r")
            bob.wait_for_text("cat")
            alice.type("\x02d")
            alice.wait_for_end()
            type_in_vain(pair, bob)
            wait_for(lambda: holder(pair) == "", what="the keyboard to be taken back")
            bob.wait_for_text("i asks for the keyboard")
            with attached(pair):
                type_in_vain(pair, bob)

    def test_input_stops_while_the_owner_looks_at_another_window(self, pair: Scene) -> None:
        with typing(pair) as (_, bob):
            pair.tmux("new-window -n other 'exec cat'")
            try:
                type_in_vain(pair, bob)
                assert pair.tmux("capture-pane -p -t other").strip() == ""
            finally:
                pair.tmux("kill-window -t other")

    @pytest.mark.parametrize(
        ("begin", "end"),
        [
            ("copy-mode -t main", "send-keys -t main -X cancel"),
            ("choose-tree -t main", "send-keys -t main q"),
            ("set-option -w -t main synchronize-panes on", "set-option -w -t main synchronize-panes off"),
            ("select-pane -d -t main", "select-pane -e -t main"),
        ],
    )
    def test_nothing_is_sent_while_the_pane_is_in_another_mode(self, pair: Scene, begin: str, end: str) -> None:
        with typing(pair) as (_, bob):
            pair.tmux(begin)
            type_in_vain(pair, bob)
            pair.tmux(end)
            bob.type("echo again-$((20+3))\r")
            bob.wait_for_text("again-23")

    def test_owners_own_binding_and_status_line_stay(self, pair: Scene) -> None:
        pair.tmux("bind-key -n F12 display-message mine")
        pair.tmux("set-option -t main status-right mine-alone")
        try:
            with attached(pair) as alice, pair.watch() as bob:
                bob.wait_for_text("i asks for the keyboard")
                alice.wait_for_text("F11 gives them the keyboard")
                alice.type("\x1b[23~")
                bob.wait_for_text(TYPES)
                alice.wait_for_text("bob types - F11: take back")
            wait_for(lambda: "F11" not in pair.tmux("list-keys -T root"), what="the key to be free again")
            assert pair.tmux("show-options -v -t main status-right") == "mine-alone\n"
            assert "mine" in pair.tmux("list-keys -T root")
        finally:
            pair.tmux("unbind-key -n F12")
            pair.tmux("set-option -u -t main status-right")

    def test_key_is_the_programs_own_where_no_guest_may_type(self, pair: Scene) -> None:
        pair.tmux("new-window -n other 'exec cat -v'")
        try:
            with attached(pair) as alice, pair.watch() as bob:
                bob.wait_for_text("i asks for the keyboard")
                alice.type(f"{KEY}\r")
                wait_for(lambda: "^[[24~" in pair.tmux("capture-pane -p -t other"), what="the key in the program")
                assert holder(pair) == ""
        finally:
            pair.tmux("kill-window -t other")


class TestInput:
    def test_bytes_are_literal_and_no_command_of_tmux(self, pair: Scene) -> None:
        pair.type("stty raw -echo; exec cat >~/typed")
        typed = pair.session.base / "home/typed"
        wait_for(typed.exists, what="cat")
        pieces = [random.Random(seed).randbytes(250) for seed in range(40)]  # noqa: S311 - any bytes do
        pieces += [b"\x02" + bytes([key]) for key in b"cdx:%&?s["] + [b"\x02:run-shell 'touch ~/injected'\r"]
        pieces += [b"\x1b[200~touch ~/injected\r\x1b[201~", b"\x1b[<0;5;5M", b"~.", b"\x1a", b"\x1c", b"\x00"]
        with typing(pair) as (_, bob):
            for piece in pieces:
                os.write(bob.descriptor, piece)
                bob.read()
            sent = b"".join(pieces)
            wait_for(lambda: typed.stat().st_size >= len(sent), what="the bytes in the pane's program")
            assert typed.read_bytes() == sent
        state = pair.tmux("display-message -p -t main '#{pane_in_mode} #{window_panes} #{session_windows}'")
        assert state == "0 1 1\n"
        assert not (pair.session.base / "home/injected").exists()

    def test_guest_who_only_watches_cannot_send_what_a_pair_sends(self, pair: Scene) -> None:
        pair.admit("bob")
        with attached(pair), pair.watch() as bob:
            bob.wait_for_text("q quits")
            assert "asks for the keyboard" not in bob.text()
            pair.tmux("set-option -p -t main @berth_keyboard bob")
            type_in_vain(pair, bob)
            bob.type("i")
            type_in_vain(pair, bob)
            pair.tmux("set-option -p -t main @berth_keyboard ''")

    @pytest.mark.parametrize("words", [["cat ~/.netrc"], ["-s", "sftp"], ["-tt", "tmux attach"], [""]])
    def test_command_copy_or_subsystem(self, pair: Scene, words: list[str]) -> None:
        options, command = (words[:-1], words[-1:]) if words[-1] else (["-T"], [])
        done = pair.session.run(pair.guest, *command, options=options, login=GUEST_LOGIN, stdin="id\n")
        assert done.returncode == 1
        if command != ["sftp"]:  # ssh shows no messages of a subsystem
            assert "berth: bob may type in terminals of alice.dev, " in done.stderr + done.stdout


class TestEnd:
    def test_keyboard_returns_when_the_access_ends(self, pair: Scene) -> None:
        with typing(pair) as (alice, bob):
            pair.admit("bob")
            assert bob.wait_for_end() == 1
            assert "your access has ended" in bob.output.decode()
            alice.wait_for_text("bob no longer watches this terminal")
            assert holder(pair) == ""
            wait_for(lambda: "F12" not in pair.tmux("list-keys -T root"), what="the key to be free again")
            assert "@berth" not in pair.tmux("show-options -t main")

    def test_next_writer_knows_no_earlier_holder(self, pair: Scene) -> None:
        pair.tmux("set-option -p -t main @berth_keyboard bob")
        pair.type("python3 -I /run/berth/node/show --stop; python3 -I /run/berth/node/show")
        wait_for(lambda: holder(pair) == "", what="the new writer")
