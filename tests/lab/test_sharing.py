"""Sharing on the lab: bob operates as himself, by a grant to him or to a group of his, and clones a snapshot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User

GROUP = "operators"


@pytest.fixture
def group(alice: User) -> Iterator[str]:
    """A Unix group of the login node, whose only member is bob."""
    lab = alice.site.lab
    lab.sh(f"groupadd -f {GROUP} && usermod -aG {GROUP} bob")
    yield GROUP
    lab.sh(f"groupdel {GROUP}")


def status(user: User, path: str, *options: str) -> int:
    return user.request(path, *options)[0]


def test_a_guest_operates_and_is_out_after_the_revocation(alice: User, bob: User, standing: str) -> None:
    session = f"alice.{standing}"
    assert bob.berth("show", session).returncode == 3
    alice.ok("share", standing, "bob", "--role", "operate")
    assert json.loads(bob.ok("list", "--shared", "--json"))["sessions"][0]["session"]["name"] == session
    assert "ready" in bob.ok("show", session)
    assert "berth: job" in bob.ok("logs", session)
    before = json.loads(alice.ok("snapshots", standing, "--json"))["snapshots"]
    assert bob.berth("snapshot", session, "by-bob").returncode == 4
    bob.ok("snapshot", session)
    taken = json.loads(alice.ok("snapshots", standing, "--json"))["snapshots"][len(before) :]
    assert [each["label"] for each in taken] == [""]
    events = json.loads(alice.ok("events", standing, "--json"))["events"]
    assert ("bob", "snapshot") in {(event["actor"], event["action"]) for event in events}
    for verb, *rest in (["delete", "--yes"], ["rollback", "1", "--yes"], ["exec", "--", "true"], ["ssh", "true"]):
        assert bob.berth(verb, session, *rest).returncode not in {0, 1}, verb
    assert status(bob, f"/v1/sessions/{session}", "-X", "DELETE") == 403
    assert bob.laptop.ssh(session, "true").returncode == 255
    alice.ok("unshare", standing, "bob")
    assert bob.berth("stop", session).returncode == 3
    assert json.loads(bob.ok("list", "--shared", "--json")) == {"sessions": [], "snapshots": [], "services": []}
    assert alice.show(standing)["state"] == "ready", "the session continues"


def test_a_member_of_a_group_stops_and_starts_until_he_leaves_it(
    alice: User, bob: User, carol: User, name: str, group: str
) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.ok("share", name, f"@{group}", "--role", "operate")
    session = f"alice.{name}"
    bob.ok("stop", session)
    assert alice.show(name)["reason"] == "stopped by bob"
    bob.ok("start", session)
    job = alice.show(name)["job_id"]
    assert alice.site.lab.sh(f"squeue -h -o %u -j {job}").strip() == "alice", "the job is its owner's"
    assert carol.berth("stop", session).returncode == 3
    assert bob.berth("leave", session).returncode == 5
    alice.site.lab.sh(f"gpasswd -d bob {group}")
    assert status(bob, f"/v1/sessions/{session}") == 404
    assert alice.show(name)["state"] == "ready"


def test_a_colleague_clones_a_shared_snapshot_without_the_secrets(
    alice: User, bob: User, standing: str, name: str
) -> None:
    session, canary = f"alice.{standing}", "canary-5f0c9e1b7a"
    secrets = "mkdir -p .ssh work && echo $0 >.ssh/id_ed25519 && echo $0 >.bash_history && echo $0 >deleted"
    alice.ok("exec", standing, "--", "sh", "-c", f"cd && {secrets} && echo result >work/result", canary)
    alice.ok("snapshot", standing)
    alice.ok("exec", standing, "--", "sh", "-c", "rm ~/deleted")
    alice.ok("snapshot", standing, "ready")
    number = str(json.loads(alice.ok("snapshots", standing, "--json"))["snapshots"][-1]["number"])
    shown = alice.ok("share", standing, "bob", "--snapshot", "ready", "--dry-run")
    assert "~/.ssh/" in shown
    assert "~/.bash_history" in shown
    assert bob.berth("clone", session, name, "--at", number).returncode == 3
    alice.ok("share", standing, "bob", "--snapshot", number, "--yes")
    assert json.loads(bob.ok("list", "--shared", "--json"))["snapshots"][0]["snapshot"] == int(number)
    assert bob.berth("show", session).returncode == 4
    bob.ok("clone", session, name, "--at", number, "--start")
    assert bob.ok("exec", name, "--", "sh", "-c", "cat ~/work/result; ls -A ~; id -un").split()[-1] == "bob"
    listed = bob.ok("exec", name, "--", "sh", "-c", "cd && cat work/result && ls -A").split()
    assert "result" in listed
    assert not {"deleted", ".bash_history"} & set(listed)
    storage = "/shared/berth/bob"
    found = alice.site.lab.sh(f"grep -rFl {canary} {storage} || true; find {storage} ! -user bob")
    assert found == ""
    events = [(each["actor"], each["detail"]) for each in json.loads(alice.ok("events", standing, "--json"))["events"]]
    assert ("bob", f"snapshot {number} as bob.{name}") in events
    assert b"stay with those who cloned them" in alice.berth("unshare", standing, "bob").stderr
    assert bob.berth("clone", session, f"{name}b", "--at", number).returncode == 3
    assert "result" in bob.ok("exec", name, "--", "sh", "-c", "cat ~/work/result")
