"""`kill -9` at each labelled point of operations on volumes: each happens once and as a whole, and nothing is lost.

One operation dies at all of its points, one after the other: after a restart it dies at the next point.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.dying import COMING_TRUE, begin, is_whole, points, stopped_session
from tests.lab.kept import Kept, as_json
from tests.lab_cluster import wait_for
from tests.short_form import mostly_soak

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User
    from tests.site.deploy import Site

PURGED = {"purge.renamed", "collect.removing", "launcher.purge-begun", "launcher.purge-done", "delete.removed"}
"""The points after which the directory may be gone for good."""


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    return stopped_session(alice, name)


@pytest.mark.parametrize("verb", mostly_soak("rollback", "snapshot", "switch"))
def test_of_a_stopped_session(
    dies: Callable[..., None], kept: Kept, new_name: Callable[[str], str], other: str, verb: str
) -> None:
    disk, paths = kept.disk(), {"snapshot": "snapshots"}
    bodies: dict[str, dict[str, Any]] = {
        "snapshot": {"label": "second"},
        "rollback": {"snapshot": "first"},
        "switch": {"profile": other},
    }
    old, new = ["two", "two"], {"snapshot": ["two", "two"], "rollback": ["one", "one"], "switch": ["two", "-"]}[verb]

    def look(point: str) -> None:
        numbers = [each["number"] for each in disk.record()["snapshots"]]
        assert (disk.marks(), numbers) in [(old, [1]), (new, [1, 2])], point

    dies(
        points(
            verb, verb, *([] if verb == "switch" else ["volumes.frozen"]), *COMING_TRUE, announced=verb != "snapshot"
        ),
        lambda: kept.send(paths.get(verb, verb), body=bodies[verb]),
        look,
    )
    view = kept.done(verb)
    assert (view["state"], kept.numbers()) == ("stopped", [1, 2])
    assert kept.user.jobs(view["id"]) == []
    assert view["profile"] == (other if verb == "switch" else "base")
    is_whole(kept, new_name, new)


def test_a_rollback_of_a_running_session_starts_it_once_in_its_job(
    dies: Callable[..., None], kept: Kept, new_name: Callable[[str], str]
) -> None:
    kept.again()
    before = kept.view()
    dies(
        [
            *("rollback.intent-recorded", "launcher.hold-begun", "hold.requested", "hold.held", "hold.answered"),
            *("launcher.rollback-begun", "rollback.done", "start.prepared", "hold.begun"),
        ],
        lambda: kept.send("rollback", body={"snapshot": "first"}),
    )
    kept.user.wait(kept.name, "ready")
    view = kept.done("rollback")
    assert view["host_key_fingerprint"] == before["host_key_fingerprint"]
    assert view["job_id"] == before["job_id"]
    assert view["generation"] != before["generation"]
    assert kept.user.jobs(view["id"]) == [str(view["job_id"])]
    assert kept.user.every_job(view["id"])[-1] == str(view["job_id"])
    assert len(kept.user.every_job(view["id"])) == 2
    is_whole(kept, new_name, ["one", "one"])


@pytest.mark.soak
def test_renaming(dies: Callable[..., None], kept: Kept, new_name: Callable[[str], str]) -> None:
    former, renamed = kept.view(), Kept(kept.user, new_name("renamed"))
    dies(points("rename", "renew", "rename.written"), lambda: kept.send("rename", body={"name": renamed.name}))
    view = renamed.done("rename")
    assert (view["id"], view["state"], kept.user.knows(kept.name)) == (former["id"], "stopped", False)
    assert view["host_key_fingerprint"] != former["host_key_fingerprint"]
    is_whole(renamed, new_name, ["two", "two"])
    assert renamed.view()["host_key_fingerprint"] == view["host_key_fingerprint"]


def test_deletion_restoring_and_purging(dies: Callable[..., None], kept: Kept, bob: User) -> None:
    disk = kept.disk()
    layers = disk.layers()

    def look(point: str) -> None:
        seen = bob.site.lab.run(["find", disk.root, f"{disk.root}/trash/{disk.id}", disk.directory], user="bob")
        assert (seen.returncode, seen.stdout.replace(f"{disk.root}\n".encode(), b"")) == (1, b""), point
        there = disk.sh(f"ls {disk.root}/sessions {disk.root}/trash").split().count(disk.id)
        assert there == 1 or point in PURGED

    dies(
        [
            *("delete.intent-recorded", "trash.moved", "launcher.trash-begun", "launcher.trash-done"),
            *("delete.set-aside", "delete.removed"),
        ],
        lambda: kept.send("", method="DELETE"),
        look,
    )
    wait_for(lambda: not kept.user.knows(kept.name), what="the session to be deleted")
    wait_for(lambda: kept.name in kept.user.ok("list", "--deleted"), what="the deleted session to be listed")
    dies(
        points("restore", "untrash", "untrash.moved"),
        lambda: kept.user.request(f"/v1/deleted/{kept.name}/restore", "-X", "POST", *as_json({})),
        look,
    )
    assert kept.done("restore")["state"] == "stopped"
    assert disk.layers() == layers
    kept.again()
    assert kept.marks() == ["two", "two"]
    kept.stop()
    named = {layer for layer in layers if layer in json.dumps(disk.record())}
    dies(
        [
            *("delete.intent-recorded", "purge.renamed", "collect.removing", "launcher.purge-begun"),
            *("launcher.purge-done", "delete.removed"),
        ],
        lambda: kept.send("?purge=true", method="DELETE"),
        look,
    )
    wait_for(lambda: not kept.user.knows(kept.name), what="the session to be gone")
    wait_for(lambda: not named & disk.layers(), what="its layers to be removed")
    left = f"ls -A {disk.root}/sessions {disk.root}/trash | grep {disk.id} || :"
    wait_for(lambda: disk.sh(left) == "", what="its directory to be removed")


@pytest.mark.soak
def test_flattening_and_collecting(crashing: Site, kept: Kept, new_name: Callable[[str], str]) -> None:
    """These are not recorded: the user asks again, and nothing has changed until then."""
    disk = kept.disk()
    kept.post("snapshots", label="second")
    before = disk.record()
    for point in ("flatten.joined", "launcher.flatten-begun"):
        armed(crashing, point)
        kept.send("flatten")
        if point.startswith("launcher"):
            wait_for(lambda: crashing.ended("broker"), what=f"the end at {point}")
        assert disk.record() == before
    armed(crashing, "")
    wait_for(lambda: kept.post("flatten")["volumes"]["layers"] == {"home": 1, "system": 1}, what="one layer of two")
    armed(crashing, "collect.removing")
    disk.sh(f"mkdir -m 700 {disk.root}/layers/00000000000000000000000000")
    assert kept.user.berth("gc").returncode != 0
    armed(crashing, "")
    kept.user.ok("gc")
    assert "00000000000000000000000000" not in disk.layers()
    is_whole(kept, new_name, ["two", "two"])


def armed(site: Site, point: str) -> None:
    """Launcher and controller, started again."""
    site.kill("broker")
    begin(site, point)
    wait_for(site.api_answers, what="the controller to answer again")
