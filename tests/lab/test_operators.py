"""Operators on the lab: carol, a member of the operators group, stops what she never sees the contents of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User

GROUP = "berth-operators"
"""The value of `operators.group` on the lab (tests/site/config.yaml)."""
WHY = "new kernel at 18:00"


@pytest.fixture
def operator(carol: User) -> Iterator[User]:
    """carol, as long as she is a member of the operators group."""
    lab = carol.site.lab
    lab.sh(f"groupadd -f {GROUP} && usermod -aG {GROUP} carol")
    yield carol
    lab.sh(f"groupdel {GROUP}")


def test_an_operator_drains_a_node_and_its_owners_read_why(alice: User, bob: User, operator: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    session, node = f"alice.{name}", alice.show(name)["endpoint"]["node"]
    assert bob.berth("admin", "list").returncode == 4
    listed = json.loads(operator.ok("admin", "list", "--node", node, "--json"))["sessions"]
    assert (session, node) in {(each["session"], each["node"]) for each in listed}
    for verb, *rest in (["show"], ["logs"], ["snapshot"], ["stop"], ["delete", "--yes"]):
        assert operator.berth(verb, session, *rest).returncode not in {0, 1}, verb
    operator.ok("admin", "message", session, "-m", "please save your work")
    operator.ok("admin", "stop", session, "-m", WHY)
    alice.ok("stop", name)  # waits until the job has ended
    assert alice.show(name)["reason"] == f"ended by operator carol: {WHY}"
    events = json.loads(alice.ok("events", name, "--json"))["events"]
    acts = {(event["actor"], event["action"], event["detail"]) for event in events}
    assert ("carol", "operator-stop", WHY) in acts
    assert ("carol", "operator-message", "please save your work") in acts
    audit = json.loads(operator.ok("admin", "audit", "--user", "alice", "--json"))["events"]
    assert "operator-stop" in {event["action"] for event in audit}


def test_who_leaves_the_group_is_no_operator_any_more(operator: User) -> None:
    operator.ok("admin", "audit", "--limit", "1")
    operator.site.lab.sh(f"gpasswd -d carol {GROUP}")
    assert operator.berth("admin", "audit").returncode == 4
