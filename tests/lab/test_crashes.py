"""`kill -9` at labelled points: after the restart there is no orphan job, no duplicate, and no lost session."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.lab.conftest import User
    from tests.site.deploy import Site

START_POINTS = [
    "start.intent-recorded",
    "launcher.prepare-begun",
    "launcher.prepare-done",
    "start.prepared",
    "launcher.submit-begun",
    "launcher.submit-done",
    "start.submitted",
]


@pytest.fixture
def crashing(site: Site) -> Iterator[Site]:
    """The site; whatever a test does to its services, they run again afterwards."""
    yield site
    _restart(site)


def _arm(site: Site, point: str) -> None:
    site.kill("broker")
    site.start("broker", crash_at=point)
    wait_for(site.api_answers, what="the armed controller to answer")


def _restart(site: Site) -> None:
    if site.pid("broker") is None:
        site.start("broker")
    wait_for(site.api_answers, what="the controller to answer again")


def _died_and_restarted(site: Site) -> None:
    wait_for(lambda: site.pid("broker") is None, what="launcher and controller to end after the crash")
    _restart(site)


@pytest.mark.parametrize("point", START_POINTS)
def test_a_start_goes_on_after_a_crash_and_makes_one_job(crashing: Site, alice: User, name: str, point: str) -> None:
    _arm(crashing, point)
    alice.berth("start", name, "--profile", "base", "--no-wait")
    _died_and_restarted(crashing)
    view = alice.wait(name, "ready")
    assert alice.jobs(view["id"]) == [str(view["job_id"])]
    assert alice.laptop.ssh(name, "true").returncode == 0
    alice.ok("stop", name)
    assert alice.jobs(view["id"]) == []


@pytest.mark.parametrize("point", ["stop.intent-recorded", "stop.cancelled"])
def test_a_stop_goes_on_after_a_crash(crashing: Site, alice: User, name: str, point: str) -> None:
    alice.ok("start", name, "--profile", "base")
    session_id = alice.show(name)["id"]
    _arm(crashing, point)
    alice.berth("stop", name, "--no-wait")
    _died_and_restarted(crashing)
    alice.wait(name, "stopped")
    assert alice.jobs(session_id) == []


@pytest.mark.parametrize("point", ["delete.intent-recorded", "delete.removed"])
def test_a_deletion_goes_on_after_a_crash(crashing: Site, alice: User, name: str, point: str) -> None:
    alice.ok("start", name, "--profile", "base")
    session_id = alice.show(name)["id"]
    alice.ok("stop", name)
    _arm(crashing, point)
    alice.berth("delete", name, "--yes", "--no-wait")
    _died_and_restarted(crashing)
    wait_for(lambda: alice.berth("show", name).returncode == 3, what="the session to be gone")
    assert alice.site.lab.run(["ls", f"/shared/berth/alice/sessions/{session_id}"]).returncode != 0


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
            _died_and_restarted(crashing)
        _says(connection, b"after\n")
    finally:
        connection.kill()
        connection.communicate()
    after = alice.show(name)
    assert (after["state"], after["job_id"], after["generation"]) == ("ready", before["job_id"], before["generation"])
    assert alice.laptop.ssh(name, "true").returncode == 0


def test_a_lost_registry_is_rebuilt_with_every_session(crashing: Site, people: dict[str, User], name: str) -> None:
    alice, bob = people["alice"], people["bob"]
    alice.ok("start", name, "--profile", "base")
    assert alice.laptop.ssh(name, "echo kept >kept.txt").returncode == 0
    bob.ok("start", name, "--profile", "base", "--mem=600M")
    bob.ok("stop", name)
    before = [user.show(name) for user in (alice, bob)]
    crashing.kill("broker", "KILL")
    crashing.lab.sh("rm /var/lib/berth/registry.db*")
    _restart(crashing)
    assert json.loads(alice.ok("list", "--json"))["sessions"] == []
    done = crashing.lab.run(["berth", "registry", "rebuild"])
    assert done.returncode == 0, done.stderr.decode()
    alice.wait(name, "ready")
    bob.wait(name, "stopped")
    after = [user.show(name) for user in (alice, bob)]
    for key in (
        "id",
        "state",
        "job_id",
        "profile",
        "version",
        "digest",
        "options",
        "host_key_fingerprint",
        "created_at",
    ):
        kept = [view[key] for view in after]
        assert kept == [view[key] for view in before] or (key == "job_id" and kept[0] == before[0][key])
    # The keys of `berth key add` were in the registry alone: people add them again.
    alice.ok("key", "add", "-", stdin=alice.laptop.public_key)
    bob.ok("key", "add", "-", stdin=bob.laptop.public_key)
    people["carol"].berth("key", "add", "-", stdin=people["carol"].laptop.public_key)
    assert alice.laptop.ssh(name, "cat kept.txt").stdout == b"kept\n"
    bob.ok("start", name)


def test_the_registry_is_only_for_operators(alice: User) -> None:
    assert alice.berth("registry", "rebuild").returncode == 4
