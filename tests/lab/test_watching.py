"""Guests in a session: by each role that enters it, each way in, and until each cause that ends the access."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.lab.services import restart
from tests.lab_cluster import wait_for
from tests.pseudo_terminal import PseudoTerminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

CONFIG = "/etc/berth/config.yaml"
GROUP = "watchers"
CANARY = "canary-of-alice"
WAYS = ("gateway", "login node")


SHORT = {
    ("pair", "gateway", "revoked"),
    ("pair", "login node", "group"),
    ("use", "gateway", "left"),
    ("use", "login node", "revoked"),
}
"""Cases of the stronger roles that run each time; `soak` has all."""
BEGINS = {"watch": "{0}: terminal", "pair": "{0}: terminal", "use": "in {0} you work as alice"}
"""What a guest sees first, by role."""


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
    alice.site.lab.sh(f"groupadd -f {GROUP}")
    yield name
    alice.site.lab.sh(f"groupdel {GROUP}")
    alice.remove(name)


def tmux(alice: User, session: str, command: str) -> str:
    return alice.laptop.ok(session, f"tmux {command}").decode()


def watch(bob: User, session: str, way: str) -> PseudoTerminal:
    """Bob's terminal, in which he begins to watch."""
    if way == "gateway":
        argv = bob.laptop.argv(session)[:-1]
    else:
        place = bob.site.lab.place.name
        argv = [sys.executable, "-m", "slurm.lab", "exec", "--name", place, "--tty", "--user", "bob", "login"]
        argv += ["--", "berth", "ssh", session]
    return PseudoTerminal(argv, {**os.environ, "TERM": "xterm-256color"}, columns=100, lines=30)


def actions(alice: User, name: str) -> list[tuple[str, str, str]]:
    events = json.loads(alice.ok("events", name, "--no-connections", "--json"))["events"]
    return [(event["actor"], event["action"], event["detail"]) for event in events]


CAUSES: dict[str, Callable[[User, User, str], object]] = {
    "revoked": lambda alice, _, name: alice.ok("unshare", name, "bob"),
    "left": lambda _, bob, name: bob.ok("leave", f"alice.{name}"),
    "expired": lambda *_: None,
    "group": lambda alice, *_: alice.site.lab.sh(f"gpasswd -d bob {GROUP}"),
    "revoked after a crash": lambda alice, _, name: revoke_after_crash(alice, name),
}


def revoke_after_crash(alice: User, name: str) -> None:
    """The next controller revokes what an earlier one has admitted."""
    alice.site.kill("broker", "KILL")
    wait_for(lambda: alice.site.ended("broker"), what="the controller's end")
    restart(alice.site)
    alice.ok("unshare", name, "bob")


@contextlib.contextmanager
def configured(site: Site, changes: dict[str, object]) -> Iterator[None]:
    """The controller has these settings during the block."""

    def write(text: str) -> None:
        site.run(f"sh -c 'cat >{CONFIG}'", user="root", stdin=text.encode())
        site.kill("broker")
        wait_for(lambda: site.ended("broker"), what="the controller's end")
        restart(site)

    before = site.lab.sh(f"cat {CONFIG}")
    write(yaml.safe_dump(yaml.safe_load(before) | changes))
    try:
        yield
    finally:
        write(before)


def cases() -> Iterator[object]:
    for case in itertools.product(BEGINS, WAYS, CAUSES):
        marks = [] if case[0] == "watch" or case in SHORT else [pytest.mark.soak]
        yield pytest.param(case, marks=marks, id="-".join(case))


@pytest.mark.parametrize("case", list(cases()))
def test_a_guest_is_in_until_the_access_ends(alice: User, bob: User, shown: str, case: tuple[str, str, str]) -> None:
    role, way, cause = case
    session, grantee = f"alice.{shown}", "bob"
    before = len(actions(alice, shown))
    if cause == "group":
        grantee = f"@{GROUP}"
        alice.site.lab.sh(f"usermod -aG {GROUP} bob")
    until = ["--until", "20s"] if cause == "expired" else []
    sure = ["--yes"] if role == "use" else []
    alice.ok("share", shown, grantee, "--role", role, *until, *sure)
    with watch(bob, session, way) as terminal:
        terminal.wait_for_text(BEGINS[role].format(session))
        if role == "use":
            terminal.type("setsid -f sleep 98765; echo in-$((20+3))\r")
            terminal.wait_for_text("in-23")
        else:
            tmux(alice, shown, f"send-keys -t main 'echo {cause}-$((20+3))' Enter")
            terminal.wait_for_text(f"{cause}-23")
        wait_for(lambda: any(a[:2] == ("bob", "guest-in") for a in actions(alice, shown)[before:]), what="the event")
        wait_for(lambda: "bob" in alice.ok("who", shown), what="the guest to be listed")
        assert f"guest     bob ({role})" in alice.laptop.ok(shown, "SHLVL=0 bash -il <<<exit", options=["-tt"]).decode()
        if role != "use":
            terminal.type("touch ~/injected\r:new-window\r\x02c\x02d\x1b[200~id\x1b[201~")
        CAUSES[cause](alice, bob, shown)
        terminal.wait_for_end()
        assert CANARY.encode() not in terminal.output
    assert alice.laptop.ssh(shown, "pgrep -fx 'sleep 98765'").returncode == 1
    assert alice.show(shown)["state"] == "ready"
    assert tmux(alice, shown, "list-windows -F '#{window_id}' | wc -l").strip() == "1"
    assert alice.laptop.ssh(shown, "test -e ~/injected").returncode == 1
    with watch(bob, session, way) as terminal:
        assert terminal.wait_for_end() != 0
        assert BEGINS[role].format(session) not in terminal.text()
    alice.berth("unshare", shown, grantee)


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
    with PseudoTerminal(argv, environment, columns=90, lines=25) as owner, watch(bob, session, "gateway") as guest:
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


def test_a_role_for_some_groups_alone(alice: User, bob: User, carol: User, shown: str) -> None:
    session, site = f"alice.{shown}", alice.site
    site.lab.sh(f"usermod -aG {GROUP} bob")
    rule = {"role": "use", "given_to": [f"@{GROUP}"]}
    with configured(site, {"sharing": {"roles": ["operate", "watch", rule]}}):
        assert alice.berth("share", shown, "carol", "--role", "use", "--yes").returncode == 4
        alice.ok("share", shown, "bob", "--role", "use", "--yes")
        with watch(bob, session, "gateway") as terminal:
            terminal.wait_for_text(BEGINS["use"].format(session))
            site.lab.sh(f"gpasswd -d bob {GROUP}")
            terminal.wait_for_end()
        assert carol.berth("show", session).returncode == bob.berth("show", session).returncode == 3
    alice.ok("unshare", shown, "bob")


def test_a_site_without_live_roles(alice: User, bob: User, shown: str) -> None:
    alice.ok("share", shown, "bob", "--role", "watch")
    with watch(bob, f"alice.{shown}", "gateway") as terminal:
        terminal.wait_for_text(f"alice.{shown}: terminal")
        with configured(alice.site, {"sharing": {"roles": ["operate"]}}):
            terminal.wait_for_end()
            assert alice.berth("share", shown, "bob", "--role", "watch").returncode == 4
    alice.ok("unshare", shown, "bob")
