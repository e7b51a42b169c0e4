"""Alice's volumes are closed to others: by command, API or forged ids, and at each moment of a deletion."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from slurm.lab.spec import NODES
from tests.deadlines import DEADLINE_S
from tests.lab.kept import Kept
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.conftest import User

MODULE = "kept-private"

PRYING = """
import os, sys
home, ids = sys.argv[1], sys.argv[2:]
paths = [home, *(f"{home}/{side}" for side in ("sessions", "trash", "layers"))]
for each in ids:
    paths += [f"{home}/{side}/{gone}{each}" for side in ("sessions", "trash") for gone in ("", ".gone-")]
    paths += [f"{home}/layers/{each}", f"{home}/layers/{each}/tree/secret", f"{home}/sessions/{each}/volumes.json"]
rounds = 0
while not os.path.exists("/tmp/enough"):
    for path in paths:
        for look in (os.listdir, lambda path: open(path).read(), os.readlink, lambda path: os.chdir(path)):
            try:
                seen = look(path)
            except OSError:
                continue
            print("saw", path, seen, flush=True)
        if path != home and os.path.lexists(path):
            print("knows of", path, flush=True)
    rounds += 1
    if rounds == 1:
        print("begun", flush=True)
print("rounds", rounds, flush=True)
"""
"""Tries again and again to read what there may be below a directory, by every id that another user could know."""


@pytest.fixture(scope="module")
def kept(people: dict[str, User]) -> Iterator[Kept]:
    """A ready session with a snapshot, a file in it, and a deleted one beside it."""
    made = Kept(people["alice"], MODULE)
    made.start()
    made.says("echo treasure >~/secret; chmod 666 ~/secret; chmod 777 ~")
    made.snapshot("first")
    gone = Kept(people["alice"], f"{MODULE}-gone")
    gone.user.ok("clone", made.name, gone.name)
    gone.user.ok("delete", gone.name, "--yes")
    yield made
    made.user.remove(made.name)


@pytest.mark.parametrize(
    "words",
    [
        ["snapshot"],
        ["snapshots"],
        ["snapshots", "--delete", "first", "--yes"],
        ["rollback", "first", "--yes"],
        ["clone", "mine"],
        ["clone", "mine", "--at", "first"],
        ["switch", "base", "--yes"],
        ["diff"],
        ["size"],
        ["verify"],
        ["flatten"],
        ["restore"],
        ["rename", "mine"],
    ],
    ids=" ".join,
)
def test_by_command_line(bob: User, kept: Kept, words: list[str]) -> None:
    verb, *rest = words
    for name in (kept.name, kept.view()["id"]) if verb != "restore" else (kept.name, f"{kept.name}-gone"):
        done = bob.berth(verb, name, *rest)
        assert done.returncode in {2, 3}, done.stderr
        assert b"treasure" not in done.stdout + done.stderr
    assert bob.berth("exec", "--root", "--yes", kept.name, "--", "true").returncode == 3
    assert bob.sessions() == []
    assert (kept.view()["state"], kept.numbers()[0]) == ("ready", 1)


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("POST /v1/sessions/{}/snapshots", {}),
        ("GET /v1/sessions/{}/snapshots", None),
        ("DELETE /v1/sessions/{}/snapshots/first", None),
        ("POST /v1/sessions/{}/rollback", {"snapshot": "first"}),
        ("POST /v1/sessions/{}/switch", {"profile": "base"}),
        ("POST /v1/sessions/{}/check", {"rollback": {"snapshot": "first"}}),
        ("POST /v1/sessions/{}/clone", {"name": "mine", "at": "1"}),
        ("GET /v1/sessions/{}/diff", None),
        ("GET /v1/sessions/{}/size", None),
        ("POST /v1/sessions/{}/verify", None),
        ("POST /v1/sessions/{}/flatten", None),
        ("POST /v1/sessions/{}/rename", {"name": "mine"}),
        ("POST /v1/sessions/{}/root", None),
        ("POST /v1/sessions/{}/root/commit", None),
        ("POST /v1/deleted/{}/restore", {}),
        ("DELETE /v1/sessions/{}?purge=true", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_by_the_api_with_every_name_that_it_has(bob: User, kept: Kept, line: str, body: dict[str, Any] | None) -> None:
    method, path = line.split()
    data = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    before = kept.view()["revision"]
    for name in (kept.name, f"{kept.name}-gone", kept.view()["id"], f"alice.{kept.name}", f"..%2Falice%2F{kept.name}"):
        status, answer = bob.request(path.format(name), "-X", method, *data)
        assert status in {404, 422}, answer
        said = json.loads(answer).get("message", "")
        assert (
            status == 422 or "no session named" in said or "no deleted session named" in said or "Not Found" in answer
        )
    assert bob.sessions() == []
    assert kept.view()["revision"] == before


def test_what_is_deleted_restored_and_purged_is_unreadable_at_every_moment(alice: User, kept: Kept, name: str) -> None:
    """Bob looks on without a pause, on two nodes, by the ids of everything."""
    session = Kept(alice, name)
    alice.ok("clone", kept.name, session.name, "--at", "first")
    disk, lab = session.disk(), alice.site.lab
    ids = [disk.id, *disk.layers()]
    watched = [node for node in NODES if node in {"login", "c1"}]
    for node in watched:
        lab.sh("rm -f /tmp/enough", node=node)
    prying = [lab.popen(["python3", "-c", PRYING, disk.root, *ids], user="bob", node=node) for node in watched]
    try:
        for each in prying:
            assert each.stdout is not None
            assert each.stdout.readline() == b"begun\n"
        for _ in range(2):
            alice.ok("delete", session.name, "--yes")
            alice.ok("restore", session.name)
        alice.ok("snapshot", session.name)
        alice.ok("delete", session.name, "--purge", "--yes")
        alice.ok("gc")
        wait_for(lambda: not alice.knows(session.name), what="the session to be gone")
    finally:
        for node in watched:
            lab.sh("touch /tmp/enough", node=node)
        said = [each.communicate(timeout=DEADLINE_S)[0].decode() for each in prying]
        for node in watched:
            lab.sh("rm -f /tmp/enough", node=node)
    for text in said:
        lines = text.splitlines()
        assert len(lines) == 1, lines
        assert int(lines[0].removeprefix("rounds ")) > 10
