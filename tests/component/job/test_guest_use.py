"""The role `use`, with a real sshd: a shell as the owner, announced to both, that ends with all that it has started."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from broker.schema.grants import Role
from tests.component.job.guest_scene import CANARY
from tests.fakes.openssh import free_port
from tests.fakes.session_container import GUEST_LOGIN, OWNER
from tests.lab_cluster import wait_for
from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.component.job.guest_scene import Scene

LIMIT_S = 2.0
"""Seconds after which nothing of a guest may run whose lease has ended, and one for a slow machine."""


@pytest.fixture
def use(scene: Scene) -> Scene:
    scene.admit("bob", role=Role.USE)
    return scene


@contextlib.contextmanager
def shell(scene: Scene) -> Iterator[PseudoTerminal]:
    with scene.watch() as bob:
        bob.wait_for_text("What you start ends when you leave")
        bob.wait_for_text("$")
        yield bob


def run_as_owner(scene: Scene, command: str) -> str:
    done = scene.session.run(scene.session.base / "owner", command, login=OWNER)
    assert done.returncode == 0, done.stderr
    return done.stdout


def marked(scene: Scene) -> list[str]:
    """The sleeps that bob has started, in whatever way."""
    return run_as_owner(scene, "pgrep -fx 'sleep 98[0-9]' || true").split()


def test_guest_works_as_the_owner_and_both_are_told(use: Scene) -> None:
    with shell(use) as bob:
        bob.wait_for_text("in alice.dev you work as alice")
        wait_for(
            lambda: "bob works as alice in this session" in use.tmux("capture-pane -p -t main"),
            what="the owner's terminal to say so",
        )
        bob.type("echo $USER-$LOGNAME-$HOME-$BERTH_GUEST; id -un; cat ~/.netrc; tty\r")
        bob.wait_for_text(f"alice-alice-{use.session.base}/home-bob")
        bob.wait_for_text(CANARY)
        assert (use.session.base / "home/bashrc-ran-alice").exists()
        bob.type("exit 7\r")
        assert bob.wait_for_end() == 7
        wait_for(
            lambda: "bob has left this session" in use.tmux("capture-pane -p -t main"),
            what="the owner's terminal to say so",
        )


START = {
    "plain": "sleep 981 &",
    "nohup": "nohup sleep 982 >/dev/null 2>&1 &",
    "own session": "setsid -f sleep 983",
    "double fork": "( ( trap '' HUP TERM; sleep 984 ) & ) ",
    "its own tmux": "tmux -S ~/own-tmux -f /dev/null new-session -d 'exec sleep 985'",
    "stopped": "sleep 986 & sleep 0.5; kill -STOP $!",
}


@pytest.mark.parametrize("cause", ["lease", "connection", "exit"])
def test_all_that_the_guest_has_started_ends_with_the_access(use: Scene, cause: str) -> None:
    with shell(use) as bob:
        for command in START.values():
            bob.type(f"{command}\r")
        wait_for(lambda: len(marked(use)) >= len(START), what="all to run")
        began = time.monotonic()
        if cause == "lease":
            use.admit("carol")
            assert bob.wait_for_end() == 1
            assert "your access has ended" in bob.output.decode()
        elif cause == "connection":
            os.kill(bob.pid, 9)
        else:
            bob.type("exit 0\r")
            bob.type("exit 0\r")  # bash warns of the stopped one first
            assert bob.wait_for_end() == 0
        wait_for(lambda: not marked(use), what="the end of all")
        assert time.monotonic() - began < LIMIT_S + 1
    assert use.tmux("display-message -p -t main '#{pane_dead}'") == "0\n"


@pytest.mark.parametrize("words", [["cat ~/.netrc"], ["-s", "sftp"], ["scp -t /tmp"], ["-tt", "tmux attach"], [""]])
def test_command_copy_or_subsystem(use: Scene, words: list[str]) -> None:
    options, command = (words[:-1], words[-1:]) if words[-1] else (["-T"], [])
    done = use.session.run(use.guest, *command, options=options, login=GUEST_LOGIN, stdin="id\n")
    assert done.returncode == 1
    if command != ["sftp"]:  # ssh shows no messages of a subsystem
        assert "berth: bob may use a shell in alice.dev, " in done.stderr + done.stdout
    assert CANARY not in done.stdout + done.stderr


def test_forwards_and_agents(use: Scene) -> None:
    options = ["-N", "-R", f"{free_port()}:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes"]
    done = use.session.run(use.guest, options=options, login=GUEST_LOGIN)
    assert "remote port forwarding failed" in done.stderr
    with contextlib.suppress(ConnectionError):
        target = f"127.0.0.1:{use.session.port}"
        with use.session.connected(use.guest, target, login=GUEST_LOGIN) as connection:
            assert connection.recv(100) == b""
    agent = use.session.base / "agent-of-bob"
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as process:
        wait_for(agent.exists, what="the agent")
        argv = use.session.ssh(use.guest, "-A", "-X", login=GUEST_LOGIN)
        with PseudoTerminal(argv, {**os.environ, "SSH_AUTH_SOCK": str(agent), "TERM": "xterm"}) as bob:
            bob.wait_for_text("$")
            bob.type("echo agent:${SSH_AUTH_SOCK-none}:${DISPLAY-none}:\r")
            bob.wait_for_text("agent:none:none:")
        process.terminate()


def test_owners_agent_is_reached_as_the_owner_reaches_it(use: Scene) -> None:
    """A guest with this role has the owner's forwarded agent, as docs/security.md says."""
    agent = use.session.base / "agent-of-alice"
    with subprocess.Popen(["ssh-agent", "-D", "-a", agent], stdout=subprocess.DEVNULL) as process:
        wait_for(agent.exists, what="the agent")
        environment = {**os.environ, "SSH_AUTH_SOCK": str(agent), "TERM": "xterm"}
        argv = use.session.ssh(use.session.base / "owner", "-A", "-tt", login=OWNER)
        with PseudoTerminal(argv, environment) as alice:
            alice.wait_for_text("$")
            alice.type("clear; echo path=$SSH_AUTH_SOCK=\r")
            alice.wait_for_text("path=/tmp/ssh-")
            found = re.search(r"path=(/tmp/ssh-[^=\s]+)=", alice.text())
            assert found is not None
            with shell(use) as bob:
                bob.type(f"SSH_AUTH_SOCK={found[1]} ssh-add -l\r")
                bob.wait_for_text("The agent has no identities")
        process.terminate()


def test_lease_of_another_role_opens_no_shell(use: Scene) -> None:
    lines = (use.session.files / "guests").read_text()
    for role in ("watch", "pair"):
        (use.session.files / "guests").write_text(lines.replace("use bob", f"{role} bob"))
        with use.watch() as bob:
            assert bob.wait_for_end() == 1
            assert "your access has ended" in bob.text()


def test_image_in_which_processes_could_not_be_ended_lets_nobody_in(use: Scene) -> None:
    program = use.session.node / "programs/broker/job/guest/use.py"
    text = program.read_text()
    program.write_text(text.replace("import ctypes", "import no_ctypes_here as ctypes"))
    try:
        with use.watch() as bob:
            assert bob.wait_for_end() == 1
            assert "the session cannot let you in" in bob.text()
    finally:
        program.write_text(text)


def test_use_is_use_of_the_session(use: Scene) -> None:
    mark = use.session.node / "active"
    mark.unlink(missing_ok=True)
    with shell(use):
        wait_for(mark.exists, what="the mark")
