"""Guests in a session: what watchers cannot do, how the keyboard goes over, and that no secret reaches them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.controller.sessions.access import ROLE_PERMISSIONS
from broker.schema.grants import Role
from broker.schema.permissions import Permission
from tests.lab.guest_entries import terminal
from tests.lab_cluster import wait_for
from tests.pseudo_terminal import PseudoTerminal
from tests.revocation_matrix import BEGINS, SSH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.conftest import User

CANARY = "canary-of-alice"
KEY = "key-of-alice"
"""The comment of the key in alice's agent, and so the answer of an agent that is reached."""
HARMLESS = [role for role in Role if Permission.USE not in ROLE_PERMISSIONS[role]]
"""The roles that run nothing as the owner: all but `use`."""


@pytest.fixture(scope="module")
def shown(people: dict[str, User]) -> Iterator[str]:
    """A session of alice's with a terminal that she shows, and secrets that she does not."""
    alice, name = people["alice"], "shown"
    alice.ok("start", name, "--profile", "base")
    alice.laptop.ok(
        name,
        f"echo {CANARY} | tee ~/.ssh-key >~/.netrc && echo export TOKEN={CANARY} >>~/.bashrc\n"
        "tmux new-session -d -s main -x 80 -y 24 && tmux send-keys -t main berth-show Enter",
    )
    wait_for(lambda: tmux(alice, name, "display-message -p '#{pane_pipe}'") == "1\n", what="the terminal to be shown")
    yield name
    alice.remove(name)


def tmux(alice: User, session: str, command: str) -> str:
    return alice.laptop.ok(session, f"tmux {command}").decode()


def test_a_watcher_runs_nothing_and_forwards_nothing(alice: User, bob: User, shown: str) -> None:
    session = f"alice.{shown}"
    alice.ok("share", shown, "bob", "--role", "watch")
    done = bob.laptop.ssh(session, "cat ~/.netrc")
    assert (done.returncode, done.stdout) == (1, b"")
    assert f"bob may watch {session}, and run no command".encode() in done.stderr
    for words in (["exec", session, "--", "id"], ["cp", f"{session}:.netrc", "."], ["open", session]):
        assert bob.berth(*words).returncode not in {0, 1}, words
    for verb in (["stop"], ["logs"], ["extend", "1h"]):
        assert bob.berth(verb[0], session, *verb[1:]).returncode == 4, verb
    assert json.loads(bob.ok("list", "--shared", "--json"))["sessions"][0]["role"] == "watch"
    alice.ok("unshare", shown, "bob")


def test_owner_gives_the_keyboard_and_takes_it_by_leaving(alice: User, bob: User, shown: str) -> None:
    session = f"alice.{shown}"
    alice.ok("share", shown, "bob", "--role", "pair")
    argv = alice.laptop.argv(shown, ["tmux attach -t main"], options=["-tt"])
    environment = {**os.environ, "TERM": "xterm-256color"}
    with PseudoTerminal(argv, environment, columns=90, lines=25) as owner, terminal(bob, session, "gateway") as guest:
        guest.wait_for_text("i asks for the keyboard")
        guest.type("touch ~/injected\r")
        owner.wait_for_text("F12 gives them the keyboard")
        owner.type("\x1b[24~")
        guest.wait_for_text("you type as the owner")
        guest.type("clear; echo by-$((20+3))-bob\r")
        owner.wait_for_text("by-23-bob")
        owner.type("\x02d")
        owner.wait_for_end()
        guest.type("touch ~/injected\r")
        guest.wait_for_text("i asks for the keyboard")
        guest.type("touch ~/injected\r\x02c")
        assert tmux(alice, shown, "list-windows -F '#{window_id}' | wc -l").strip() == "1"
        assert alice.laptop.ssh(shown, "test -e ~/injected").returncode == 1
        alice.ok("unshare", shown, "bob")
        guest.wait_for_end()


@contextlib.contextmanager
def owner_with_agent(alice: User, session: str, folder: Path) -> Iterator[tuple[PseudoTerminal, str]]:
    """Alice's terminal with her forwarded agent, which answers there; and the path of its socket in the session."""
    key, socket = folder / "key", folder / "agent"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", KEY, "-f", key], check=True)
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL) as process:
        wait_for(socket.exists, what="the agent")
        environment = {**os.environ, "SSH_AUTH_SOCK": str(socket), "TERM": "xterm-256color"}
        subprocess.run(["ssh-add", "-q", key], env=environment, check=True)
        argv = alice.laptop.argv(session, ["bash --norc"], options=["-A", "-tt"])
        with PseudoTerminal(argv, environment, columns=120, lines=25) as owner:
            owner.type("echo path=$SSH_AUTH_SOCK=; ssh-add -l\r")
            owner.wait_for_text(f"{KEY} (ED25519)")
            found = re.search(r"path=(/[^=\s]+)=", owner.text())
            assert found is not None
            yield owner, found[1]
        process.terminate()


@pytest.mark.parametrize("role", [Role.WATCH, Role.PAIR])
def test_a_guest_reaches_no_agent_of_the_owner(alice: User, bob: User, shown: str, role: Role, tmp_path: Path) -> None:
    """Not by the variable, an open file, a forward, or what a guest types while the owner is away."""
    session = f"alice.{shown}"
    alice.ok("share", shown, "bob", "--role", role)
    with owner_with_agent(alice, shown, tmp_path) as (_, path), contextlib.ExitStack() as guests:
        tmux(alice, shown, f"set-environment -g SSH_AUTH_SOCK {path}")
        screens = [guests.enter_context(terminal(bob, session, way)) for way in SSH]
        for screen in screens:
            screen.wait_for_text(BEGINS[role].format(session))
            screen.type(f"i\rSSH_AUTH_SOCK={path} ssh-add -l >~/injected\r")
        look = (
            f"for each in $(pgrep -f 'berth/node/{role} bob'); do "
            "echo process; tr '\\0' '\\n' </proc/$each/environ; ls -l /proc/$each/fd; done; cat ~/injected"
        )
        found = alice.laptop.ssh(shown, look).stdout.decode()
        assert found.count("process\n") >= len(SSH)
        assert not [word for word in (path, "SSH_AUTH_SOCK", KEY, CANARY) if word in found]
        here = tmp_path / "forwarded"
        forward = bob.laptop.argv(session, options=["-N", "-L", f"{here}:{path}"])[:-1]
        with subprocess.Popen(forward, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            wait_for(lambda: here.exists() or process.poll() is not None, what="the forward")
            asked = subprocess.run(
                ["ssh-add", "-l"], env={**os.environ, "SSH_AUTH_SOCK": str(here)}, capture_output=True, check=False
            )
            process.terminate()
        assert (asked.returncode, KEY.encode() in asked.stdout) != (0, True)
        assert asked.returncode != 0
        for screen in screens:
            screen.read()
            assert not [word for word in (KEY, CANARY) if word.encode() in screen.output]
    alice.ok("unshare", shown, "bob")


TRIES = (
    "list --shared --json", "show {0} --json", "logs {0}", "events {0} --json", "history {0} --json",
    "explain {0} --json", "snapshots {0} --json", "diff {0}", "size {0}", "who {0} --json", "shares {0}",
    "services {0} --json", "ssh {0} -- cat .netrc", "exec {0} -- env", "cp {0}:.netrc .", "open {0} --print",
    "forward {0} 8000", "snapshot {0}", "clone {0} copied",
)  # fmt: skip
"""Commands that show something of a session."""


@pytest.mark.parametrize(
    "role",
    [pytest.param(each, marks=[] if each is Role.OPERATE else [pytest.mark.soak]) for each in HARMLESS],
)
def test_no_command_of_a_guest_has_a_secret(alice: User, bob: User, shown: str, role: Role) -> None:
    session = f"alice.{shown}"
    secrets = "cat ~/.netrc; bash -ic 'echo $TOKEN'"
    assert alice.laptop.ok(shown, secrets).decode().split() == [CANARY, CANARY], "they are there"
    if role is Role.SNAPSHOT:
        alice.ok("snapshot", shown, "shared")
    words = {Role.PORT: ["--service", "port-8000"], Role.SNAPSHOT: ["--snapshot", "shared", "--yes"]}
    alice.ok("share", shown, "bob", *words.get(role, ["--role", role]))
    script = "; ".join(f"berth {each.format(session)}" for each in TRIES)
    done = bob.site.lab.run(["sh", "-c", f"cd; {{ {script}; }} 2>&1 </dev/null"], user="bob", seconds=120)
    by_ssh = [bob.laptop.ssh(session, each) for each in ("cat ~/.netrc; env", "", "tmux capture-pane -p")]
    said = b"".join([done.stdout, *(each.stdout + each.stderr for each in by_ssh)])
    assert session.encode() in said
    assert CANARY.encode() not in said
    alice.ok("unshare", shown, "bob")
