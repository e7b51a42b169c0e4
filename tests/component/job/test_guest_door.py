"""The door of a session for guests, with real sshd and tmux: what the owner shows is seen, and nothing goes in."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.component.job.guest_scene import CANARY, SHOW, Scene
from tests.fakes.openssh import free_port, make_key, public
from tests.fakes.session_container import GUEST_LOGIN, OWNER, SessionContainer
from tests.lab_cluster import wait_for
from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from pathlib import Path

TITLE = "alice.dev"


class TestScreens:
    def test_guest_sees_what_the_owner_shows_as_it_changes(self, scene: Scene) -> None:
        with scene.watch() as bob:
            bob.wait_for_text(f"{TITLE}: terminal; q quits")
            scene.type(r'printf "h\303\251llo \033[31mred\033[0m \033(0lqk\033(B\n"')
            bob.wait_for_text("héllo red ┌─┐")
            row = next(i for i, line in enumerate(bob.screen.display) if line.startswith("héllo"))
            assert bob.screen.buffer[row][6].fg == "red"
            bob.type("q")
            assert bob.wait_for_end() == 0
            assert bob.modes_left_on() == []

    def test_scroll_back_is_the_viewers_own(self, scene: Scene) -> None:
        with scene.watch(lines=12) as bob:
            bob.wait_for_text("q quits")
            scene.type("for i in $(seq 100 160); do echo line-$i; done")
            bob.wait_for_text("line-160")
            assert "line-120" not in bob.text()
            bob.type("g")
            bob.wait_for_text("line-100")
            bob.wait_for_text("lines back; End returns")
            bob.type("\x1b[F")
            bob.wait_for_text("line-160")
        assert scene.tmux("display-message -p -t main '#{pane_in_mode}'") == "0\n"

    def test_what_was_on_the_terminal_before_is_not_sent(self, scene: Scene) -> None:
        scene.type(f"{SHOW} --stop", f"for i in $(seq 99); do echo {CANARY}; done; clear; {SHOW}")
        wait_for(lambda: scene.tmux("display-message -p -t main '#{pane_pipe}'") == "1\n", what="the second show")
        wait_for(lambda: "from now on" in scene.tmux("capture-pane -p -t main"), what="the second show's answer")
        with scene.watch() as bob:
            bob.wait_for_text("from now on")
            scene.type("seq 2000 2100")
            bob.wait_for_text("2100")
            bob.type("g")
            bob.wait_for_text("lines back")
            assert CANARY.encode() not in bob.output

    def test_smaller_terminal_says_that_it_is_cut(self, scene: Scene) -> None:
        with scene.watch(columns=60, lines=10) as bob:
            bob.wait_for_text("cut: it has 80x24")
            scene.type("seq -s _ 1 40")
            bob.wait_for_text("_22_")
            bob.resize(100, 40)
            bob.wait_for_text("39_40")

    def test_only_shown_terminals_are_seen_and_each_by_itself(self, scene: Scene) -> None:
        scene.tmux(f"new-window -d -n hidden 'echo {CANARY}; exec cat'")
        scene.tmux(f"new-window -d -n second '{SHOW}; echo second-one; exec cat'")
        try:
            with scene.watch() as bob:
                bob.wait_for_text("terminal 1 of 2")
                bob.type("n")
                bob.wait_for_text("second-one")
                bob.type("n")
                bob.wait_for_text("terminal 1 of 2")
                scene.tmux("kill-window -t second")
                bob.wait_for_text(f"{TITLE}: terminal; q quits")
                assert CANARY.encode() not in bob.output
        finally:
            scene.tmux("kill-window -t hidden")

    def test_guest_waits_for_a_terminal_and_sees_it_when_it_is_shown(self, scene: Scene) -> None:
        scene.tmux("pipe-pane -t main")
        with scene.watch() as bob:
            bob.wait_for_text("no terminal is shown now")
            scene.type(SHOW)
            bob.wait_for_text("from now on")
            scene.type(f"{SHOW} --stop")
            bob.wait_for_text("no terminal is shown now")

    def test_sequences_that_could_act_on_the_guests_terminal_stay_away(self, scene: Scene) -> None:
        with scene.watch() as bob:
            bob.wait_for_text("q quits")
            scene.type(
                r'printf "\033]52;c;aGk=\007\033]0;title\007\033[c\033[6n\033[?1000h\033[?2004h\033Pq#0\033\134done\n"'
            )
            bob.wait_for_text("done")
            sent = bytes(bob.output)
        assert b"\x1b]" not in sent
        assert b"\x1bP" not in sent
        assert not re.search(rb"\x1b\[(c|6n|\?1000h|\?2004h)", sent)

    def test_owner_is_told_who_watches_and_when_they_have_gone(self, scene: Scene) -> None:
        attach = scene.session.ssh(scene.session.base / "owner", "-tt", login=OWNER)
        with PseudoTerminal([*attach, f"{scene.server} attach -t main"], os.environ, lines=25) as alice:
            alice.wait_for_text("[main]")
            with scene.watch() as bob:
                alice.wait_for_text("berth: bob watches this terminal")
                assert scene.tmux("show-options -pv -t main @berth_guests") == "bob\n"
                bob.wait_for_text("q quits")
                bob.type("q")
                assert bob.wait_for_end() == 0
            alice.wait_for_text("berth: bob no longer watches this terminal")
        assert scene.tmux("show-options -pv -t main @berth_guests") == "\n"


def snapshot(scene: Scene) -> str:
    """Everything of the terminal that input could change."""
    state = "#{cursor_x} #{cursor_y} #{history_size} #{pane_in_mode} #{window_panes} #{session_windows} #{pane_pid}"
    return scene.tmux(f"display-message -p -t main '{state}'") + scene.tmux("capture-pane -p -e -S - -t main")


class TestInput:
    def test_nothing_that_a_guest_types_changes_the_owners_terminal(self, scene: Scene) -> None:
        scene.type("cat")
        wait_for(lambda: scene.tmux("display-message -p -t main '#{cursor_x} #{cursor_y}'") == "0 1\n", what="cat")
        before = snapshot(scene)
        pieces = [random.Random(seed).randbytes(250) for seed in range(40)]  # noqa: S311 - any bytes do
        pieces += [b"\x02" + bytes([key]) for key in b"cdx:%&?s["] + [b"\x02:run-shell 'touch ~/injected'\r"]
        pieces += [b"\x1b[200~touch ~/injected\r\x1b[201~", b"\x1b[?1;2c", b"\x1b[24;80R", b"touch ~/injected\r"]
        pieces += [b"\x1b]52;c;aGk=\x07", b"\x1b[<0;5;5M", b"~.", b"\x1a", b"\x1c", b"\x11", b"\x13"]
        with scene.watch(options=["-o", "EscapeChar=none"]) as bob:
            bob.wait_for_text("q quits")
            for piece in pieces:
                os.write(bob.descriptor, piece)
                bob.read()
            os.write(bob.descriptor, b"x" * 40)
            scene.tmux("display-message -p ok")
            assert bob.status is None
            bob.type("q")
            bob.read(0.1)
            bob.type("q")
            assert bob.wait_for_end() == 0
        assert snapshot(scene) == before
        assert not (scene.session.base / "home/injected").exists()

    @pytest.mark.parametrize(
        "words",
        [
            ["cat ~/.netrc"],
            ["env"],
            ["-s", "sftp"],
            ["scp -t /tmp"],
            ["-tt", "tmux attach"],
            [""],
        ],
    )
    def test_command_copy_or_subsystem(self, scene: Scene, words: list[str]) -> None:
        options, command = (words[:-1], words[-1:]) if words[-1] else (["-T"], [])
        done = scene.session.run(scene.guest, *command, options=options, login=GUEST_LOGIN, stdin="id\n")
        assert done.returncode == 1
        if command != ["sftp"]:  # ssh shows no messages of a subsystem
            assert "berth: bob may watch alice.dev, " in done.stderr + done.stdout
        assert CANARY not in done.stdout + done.stderr

    @pytest.mark.parametrize("forward", ["{port}:127.0.0.1:1", "{home}/thesis:127.0.0.1:1"])
    def test_remote_forward(self, scene: Scene, forward: str) -> None:
        thesis = scene.session.base / "home/thesis"
        thesis.write_text("years of work")
        options = ["-N", "-R", forward.format(port=free_port(), home=thesis.parent), "-o", "ExitOnForwardFailure=yes"]
        done = scene.session.run(scene.guest, options=options, login=GUEST_LOGIN)
        assert done.returncode == 255
        assert "remote port forwarding failed" in done.stderr
        assert thesis.read_text() == "years of work"

    @pytest.mark.parametrize("target", ["127.0.0.1:{port}", "/run/berth/node/shown/0.sock"])
    def test_local_forward(self, scene: Scene, target: str) -> None:
        session = scene.session
        answer = b""
        connected = session.connected(scene.guest, target.format(port=session.port), login=GUEST_LOGIN)
        with contextlib.suppress(ConnectionError), connected as connection:
            connection.sendall(b"bob\n")
            answer = connection.recv(4096)
        assert answer == b""
        assert ": open failed: " in (session.base / "forward.log").read_text()

    def test_agent_x11_variables_and_files_of_the_owner_for_logins(self, scene: Scene) -> None:
        program = scene.session.node / "watch"
        text = program.read_text()
        program.write_text("import os, sys; print(dict(os.environ))")
        agent = scene.session.base / "agent"
        sent = {"COLORTERM": "odd", "DISPLAY": "127.0.0.1:9", "SSH_AUTH_SOCK": str(agent)}
        try:
            with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as process:
                wait_for(agent.exists, what="the agent")
                options = ["-A", "-Y", "-o", "SendEnv=COLORTERM"]
                done = scene.session.run(scene.guest, options=options, login=GUEST_LOGIN, **sent)
                process.terminate()
        finally:
            program.write_text(text)
        assert "'BERTH_SESSION_NAME': 'dev'" in done.stdout
        for absent in ("SSH_AUTH_SOCK", "DISPLAY", "COLORTERM", "TOKEN", CANARY):
            assert absent not in done.stdout
        home = scene.session.base / "home"
        assert {path.name for path in home.glob("*-ran-*")} <= {f"{kind}-ran-{OWNER}" for kind in ("bashrc", "rc")}

    def test_notices_for_the_owner_do_not_reach_guests(self, scene: Scene) -> None:
        with scene.watch() as bob:
            bob.wait_for_text("q quits")
            done = scene.session.run(
                scene.session.base / "owner",
                'for t in /dev/pts/[0-9]*; do [[ -w $t ]] && echo "$t"; done; ls /dev/pts',
                login=OWNER,
            )
            writable, all_of_them = re.findall(r"/dev/pts/\d+", done.stdout), re.findall(r"(?m)^\d+$", done.stdout)
            assert len(writable) == len(all_of_them) - 1


class TestLeases:
    def test_guest_is_out_when_the_lease_has_gone_and_the_terminal_continues(self, scene: Scene) -> None:
        with scene.watch() as bob:
            bob.wait_for_text("q quits")
            scene.admit("carol")
            assert bob.wait_for_end() == 1
            assert "your access has ended" in bob.output.decode()
            assert bob.modes_left_on() == []
        assert scene.tmux("display-message -p -t main '#{pane_pipe}'") == "1\n"

    @pytest.mark.parametrize("age_s", [400, -400])
    def test_stale_lease_lets_nobody_in(self, scene: Scene, age_s: int) -> None:
        scene.admit("bob", number=time.time_ns() - age_s * 10**9)
        with scene.watch() as bob:
            assert bob.wait_for_end() == 1
            assert "controller does not answer" in bob.text()

    def test_list_that_is_no_list_lets_nobody_in(self, scene: Scene) -> None:
        for content in (
            b"",
            b"watch bob\n",
            b"\xff\xfe",
            b"lease x\nwatch bob\n",
            b"lease 1\nwatch bobby\nwatch  bob\n",
        ):
            (scene.session.files / "guests").write_bytes(content)
            with scene.watch() as bob:
                assert bob.wait_for_end() == 1
                assert "Traceback" not in bob.text()

    def test_connection_without_a_terminal_ends_by_itself(self, scene: Scene) -> None:
        done = scene.session.run(scene.guest, options=["-N"], login=GUEST_LOGIN)
        assert "Authenticated to " in done.stderr
        assert done.returncode == 255

    def test_watching_is_use_of_the_session(self, scene: Scene) -> None:
        mark = scene.session.node / "active"
        mark.unlink(missing_ok=True)
        with scene.watch() as bob:
            bob.wait_for_text("q quits")
            wait_for(mark.exists, what="the mark")


class TestLogins:
    def test_certificate_of_the_site_lets_its_user_in_alone(self, scene: Scene) -> None:
        authority = public(scene.session.base / "user")
        for principals, gets_in in (("bob", True), ("alice", False), ("bobby", False)):
            key = scene.session.certificate(principals, by="user", options=["permit-pty"])
            scene.admit("bob", keys=[], authorities=[authority])
            done = scene.session.run(key, "id", login=GUEST_LOGIN)
            assert ("Authenticated to " in done.stderr) is gets_in, done.stderr
            assert ("bob may watch alice.dev" in done.stderr) is gets_in
            scene.admit("bob", keys=[], authorities=[authority], revoked=[public(key)])
            assert not scene.session.lets_in(key, login=GUEST_LOGIN)

    def test_keys_open_no_other_login(self, scene: Scene) -> None:
        assert scene.session.lets_in(scene.guest, login=GUEST_LOGIN)
        assert not scene.session.lets_in(scene.guest, login=OWNER)
        assert not scene.session.lets_in(scene.session.base / "owner", login=GUEST_LOGIN)
        assert not scene.session.lets_in(make_key(scene.session.base / "other"), login=GUEST_LOGIN)

    @pytest.mark.parametrize("missing", ["guest_keys", "guest_revoked"])
    def test_missing_file_keeps_guests_out_and_the_owner_in(self, scene: Scene, missing: str) -> None:
        (scene.session.files / missing).unlink()
        assert not scene.session.lets_in(scene.guest, login=GUEST_LOGIN)
        assert scene.session.lets_in(scene.session.base / "owner", login=OWNER)


class TestOwnersCommand:
    @pytest.mark.parametrize(
        ("command", "says"),
        [
            (f"{SHOW}", "this terminal is shown already"),
            (f"{SHOW} --what", "usage: berth-show"),
            (f"TMUX= {SHOW} --stop", "this is no terminal of tmux"),
            (f"tmux pipe-pane -t main; tmux pipe-pane -t main cat; {SHOW}", "another program reads this terminal"),
            (f"tmux pipe-pane -t main; {SHOW} --stop", "this terminal is not shown"),
            (f"PATH= {os.path.realpath(sys.executable)} -I /run/berth/node/show", "the session has no tmux"),
        ],
    )
    def test_refusals(self, scene: Scene, command: str, says: str) -> None:
        scene.type(command)
        wait_for(lambda: says in scene.tmux("capture-pane -p -J -t main"), what=says)


def test_image_with_an_account_of_that_name(tmp_path: Path) -> None:
    made = SessionContainer(tmp_path, image_accounts=f"root:x:0:0::/root:/bin/sh\n{GUEST_LOGIN}:x:33:33::/:/bin/sh\n")
    made.prepare()
    Scene(made).admit("bob")
    with made.running():
        assert f"warning: no guests: the image has an account {GUEST_LOGIN}" in made.log
        assert not made.lets_in(made.base / "guest", login=GUEST_LOGIN)
        assert made.lets_in(made.base / "owner", login=OWNER)
