"""The present and former connections of a session: by each way in, visible to its owner only."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from broker.gateway import audit
from tests.lab.services import restart
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.lab.ways import Way
    from tests.site.deploy import Site


@pytest.fixture(scope="module")
def session(people: dict[str, User]) -> Iterator[str]:
    alice, name = people["alice"], "watched"
    alice.ok("start", name, "--profile", "base")
    yield name
    alice.remove(name)


def connections(user: User, session: str, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(user.ok("who", session, "--json", *options))["connections"]
    return found


def test_who_is_connected_and_how_it_ended(alice: User, session: str, way: Way) -> None:
    """By `berth connect`, whose key it was is for the login node's own sshd to know."""
    before = {each["id"] for each in connections(alice, session, "--all")}
    with way.begin("echo there; cat") as client:  # which ends with its standard input
        assert client.stdout is not None
        assert client.stdout.readline() == b"there\n"
        wait_for(lambda: bool(connections(alice, session)), what="the connection to be known")
        (stands,) = connections(alice, session)
    assert stands["id"] not in before
    assert (stands["user"], stands["ended_at"], stands["end"]) == ("alice", None, "")
    assert stands["generation"] == alice.show(session)["generation"]
    assert stands["peer"]
    if way.config.endswith(".login/ssh_config"):
        assert (stands["gateway"], stands["fingerprint"]) == ("", "")
    else:
        assert stands["gateway"] == "login"
        assert stands["fingerprint"] in alice.ok("key", "list")
    wait_for(lambda: not connections(alice, session), what="the end of the connection to be known")
    ended = {each["id"]: each for each in connections(alice, session, "--all")}[stands["id"]]
    assert ended["end"] == "closed"
    assert min(ended["sent"], ended["received"]) > 1000
    event = alice.ok("events", session).splitlines()[-1]
    assert " connect " in event
    assert event.endswith("closed")


def test_berth_ssh_is_remembered_and_nobody_else_learns_of_it(alice: User, bob: User, session: str) -> None:
    before = len(connections(alice, session, "--all"))
    alice.ok("ssh", session, "true")
    (last,) = connections(alice, session, "--all")[before:]
    assert last["end"] == "not followed"
    assert bob.berth("who", session).returncode == bob.berth("who", "nothing").returncode != 0
    bob.ok("events")


def test_a_controller_that_was_away_learns_of_what_happened_meanwhile(
    alice: User, session: str, crashing: Site
) -> None:
    before = {each["id"] for each in connections(alice, session, "--all")}

    def ended() -> int:
        return len([each for each in connections(alice, session, "--all") if each["end"] and each["id"] not in before])

    alice.laptop.ok(session, "true")
    wait_for(lambda: ended() == 1, what="the first connection to be known")
    crashing.kill("broker")
    wait_for(lambda: crashing.ended("broker"), what="the controller's end")
    alice.laptop.ok(session, "true")
    restart(crashing)
    wait_for(lambda: ended() == 2, what="the second connection to be known", seconds=30 + audit.RETRY_S)


def test_terminals_are_counted_and_hear_who_ends_the_session(alice: User, new_name: Callable[[str], str]) -> None:
    """And a connection says nothing of another session, which is queued."""
    name, queued = new_name("ending"), new_name("queued")
    alice.ok("start", name, "--profile", "base")
    alice.ok("start", queued, "--profile", "base", "--no-wait", "--begin=now+1hour")
    quiet = alice.laptop.ssh(name, "true")
    assert (quiet.returncode, quiet.stderr) == (0, b"")
    with subprocess.Popen(alice.laptop.argv(queued, ["true"]), stderr=subprocess.PIPE) as waits:
        assert waits.stderr is not None
        assert f"berth: {queued} is queued" in waits.stderr.readline().decode()
        waits.kill()
    assert end_notice(alice, name, lambda: alice.ok("stop", name)) == [
        f"berth: {name}: alice stopped the session",
        f"berth: Its files are kept. `berth start {name}` starts it again.",
    ]
    log = alice.ok("logs", name)
    assert "Accepted publickey for alice" in log
    assert not re.search(r"Timeout before authentication|Connection (closed|reset) by [0-9.]+ port", log)
    alice.ok("stop", queued)
    alice.ok("start", name)
    job = alice.show(name)["job_id"]
    said = end_notice(alice, name, lambda: alice.site.lab.run(["scancel", str(job)], user="root"))
    assert said[0] == f"berth: {name}: Slurm ends job {job} of this session (scancel, preemption or a requeue)"


def end_notice(user: User, session: str, end: Callable[[], object]) -> list[str]:
    """Return the lines that a terminal of the session shows while `end` ends the session."""
    argv = user.laptop.argv(session, ["echo open; cat"], options=["-tt"])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as terminal:
        assert terminal.stdout is not None
        assert terminal.stdout.readline() == b"open\r\n"
        wait_for(lambda: json.loads(user.ok("who", session, "--json"))["terminals"] == 1, what="the terminal to count")
        end()
        return terminal.stdout.read().decode().replace("\r", "").strip().splitlines()
