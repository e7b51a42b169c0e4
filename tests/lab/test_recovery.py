"""Services and the registry are lost while sessions run: sessions, connections and files are there afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab.dying import dies_at_each
from tests.lab.services import died_and_restarted, restart
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site


def _talking(user: User, name: str) -> subprocess.Popen[bytes]:
    """A connection through `berth connect` and sshd, kept open."""
    process = user.site.lab.popen(["berth", "exec", name, "--", "cat"], user=user.name)
    _says(process, b"before\n")
    return process


def _says(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    assert process.stdout.readline() == line


@pytest.mark.parametrize("victim", ["launcher", "controller", "gateway"])
def test_running_sessions_and_their_connections_survive(crashing: Site, alice: User, name: str, victim: str) -> None:
    alice.ok("start", name, "--profile", "base")
    before = alice.show(name)
    connection = _talking(alice, name)
    try:
        if victim == "gateway":
            crashing.kill("gateway", "KILL")
            crashing.start("gateway")
            wait_for(crashing.gateway_answers, what="the gateway to answer")
        else:
            pid = crashing.controller_pid() if victim == "controller" else crashing.pid("broker")
            crashing.lab.sh(f"kill -KILL {pid}")
            died_and_restarted(crashing)
        _says(connection, b"after\n")
    finally:
        connection.kill()
        connection.communicate()
    after = alice.show(name)
    assert (after["state"], after["job_id"], after["generation"]) == ("ready", before["job_id"], before["generation"])
    alice.laptop.ok(name, "true")


KEPT = ("id", "state", "profile", "version", "digest", "options", "host_key_fingerprint", "created_at")


@pytest.fixture
def keys(people: dict[str, User]) -> Iterator[Callable[[], None]]:
    """Lets everybody's laptop in again, as the keys of `berth key add` are in the registry alone; done in any case."""

    def add() -> None:
        for user in people.values():
            user.berth("key", "add", "-", stdin=user.laptop.public_key)

    yield add
    add()


def test_a_lost_registry_is_rebuilt_with_every_session(
    crashing: Site, people: dict[str, User], keys: Callable[[], None], name: str
) -> None:
    alice, bob = people["alice"], people["bob"]
    alice.ok("start", name, "--profile", "base")
    alice.laptop.ok(name, "echo kept >kept.txt")
    bob.ok("start", name, "--profile", "base", "--mem=600M")
    bob.ok("stop", name)
    before = [user.show(name) for user in (alice, bob)]
    crashing.kill("broker", "KILL")
    crashing.lab.sh("rm /var/lib/berth/registry.db*")
    restart(crashing)
    assert json.loads(alice.ok("list", "--json"))["sessions"] == []
    done = crashing.lab.run(["berth", "registry", "rebuild"])
    assert done.returncode == 0, done.stderr.decode()
    alice.wait(name, "ready")
    bob.wait(name, "stopped")
    after = [user.show(name) for user in (alice, bob)]
    assert [[view[key] for key in KEPT] for view in after] == [[view[key] for key in KEPT] for view in before]
    assert (after[0]["job_id"], after[0]["generation"]) == (before[0]["job_id"], before[0]["generation"])
    keys()
    assert alice.laptop.ok(name, "cat kept.txt") == b"kept\n"
    bob.ok("start", name)


@pytest.mark.parametrize("point", ["hold.held", "hold.begun"])
def test_a_registry_that_is_lost_while_a_session_restarts_in_its_job(
    crashing: Site, alice: User, keys: Callable[[], None], name: str, point: str
) -> None:
    """The job waits, or has begun a run that its comment does not show: the session is ready in it, in another run."""
    alice.ok("start", name, "--profile", "base")
    alice.laptop.ok(name, "echo kept >kept.txt")
    before = alice.show(name)
    dies_at_each(
        crashing,
        [point],
        lambda: alice.request(f"/v1/sessions/{name}/restart", "-X", "POST"),
        lambda _: crashing.lab.sh("rm /var/lib/berth/registry.db*"),
    )
    done = crashing.lab.run(["berth", "registry", "rebuild"])
    assert done.returncode == 0, done.stderr.decode()
    assert alice.show(name)["endpoint"] != before["endpoint"], "the endpoint is that of the former run"
    after = alice.runs_again(name, before, 60)
    assert (after["job_id"], after["endpoint"]["node"]) == (before["job_id"], before["endpoint"]["node"])
    assert after["generation"] != before["generation"]
    assert after["endpoint"]["port"] != before["endpoint"]["port"]
    keys()
    assert alice.laptop.ok(name, "cat kept.txt") == b"kept\n"
    assert alice.every_job(after["id"]) == [str(before["job_id"])]


def test_the_registry_is_only_for_operators(alice: User) -> None:
    assert alice.berth("registry", "rebuild").returncode == 4
