"""`kill -9` at each labelled point of what is done to volumes: it happens once and as a whole, and nothing is lost.

One operation dies at all of its points, one after the other: what goes on after a restart dies at the next point.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.dying import begin, dies_at_each
from tests.lab.kept import Kept
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User
    from tests.site.deploy import Site

PURGED = {"purge.renamed", "collect.removing", "launcher.purge-begun", "launcher.purge-done", "delete.removed"}
"""Where the directory may be gone for good."""
COMING_TRUE = ["volumes.before-commit", "volumes.committed"]


def points(operation: str, verb: str, *within: str, announced: bool = False) -> list[str]:
    """All that an operation meets on its way through controller, launcher and worker.

    The launcher's last, since the worker that it had when it died may have come to its end before.
    """
    told = [f"{operation}.announced"] if announced else []
    launcher = [f"launcher.{verb}-begun", f"launcher.{verb}-done"]
    return [f"{operation}.intent-recorded", *told, *within, *launcher, f"{operation}.done"]


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    """A stopped session with the marks `one` in snapshot 1, called `first`, and `two` since."""
    made = Kept(alice, name)
    made.start()
    made.mark("one")
    made.stop()
    made.post("snapshots", label="first")
    made.disk().mark("two")
    return made


def is_whole(session: Kept, new_name: Callable[[str], str], marks: list[str]) -> None:
    """Nothing of what was acknowledged is lost or torn: every layer is right, every snapshot can be cloned, and the
    session starts, with one job.
    """
    session.verified()
    for number in session.numbers():
        clone = Kept(session.user, new_name("c"))
        session.post("clone", name=clone.name, at=str(number))
        clone.done("clone")
        assert clone.disk().marks()[0] in {"one", "two"}
        clone.send("?purge=true", method="DELETE")
    session.again()
    assert session.marks() == marks


@pytest.mark.parametrize("verb", ["snapshot", "rollback", "switch"])
def test_of_a_stopped_session(
    crashing: Site, kept: Kept, new_name: Callable[[str], str], other: str, verb: str
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

    dies_at_each(
        crashing,
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


def test_a_rollback_of_a_running_session_stops_and_starts_it_once(
    crashing: Site, kept: Kept, new_name: Callable[[str], str]
) -> None:
    kept.again()
    before = kept.view()
    dies_at_each(
        crashing,
        ["rollback.intent-recorded", "stop.cancelled", "launcher.rollback-begun", "rollback.done", "start.prepared"],
        lambda: kept.send("rollback", body={"snapshot": "first"}),
    )
    kept.user.wait(kept.name, "ready")
    view = kept.done("rollback")
    assert view["host_key_fingerprint"] == before["host_key_fingerprint"]
    assert kept.user.jobs(view["id"]) == [str(view["job_id"])]
    assert kept.user.every_job(view["id"])[-1] == str(view["job_id"])
    assert len(kept.user.every_job(view["id"])) == 3
    is_whole(kept, new_name, ["one", "one"])


def test_a_snapshot_and_a_clone_of_a_running_session(
    crashing: Site, kept: Kept, new_name: Callable[[str], str]
) -> None:
    kept.again()
    before, disk = kept.view(), kept.disk()
    copying = ["copy.requested", "copy.copied"]

    def look(point: str) -> None:
        assert disk.marks() == ["two", "two"], point

    ask = lambda: kept.send("snapshots", body={"label": "second"})  # noqa: E731 - one of two
    dies_at_each(crashing, points("snapshot", "copy", *copying, "volumes.committed"), ask, look)
    kept.done("snapshot")
    assert kept.numbers() == [1, 2]
    clone = Kept(kept.user, new_name("c"))
    dies_at_each(
        crashing,
        [
            *("clone.intent-recorded", "copy.copied", "launcher.copy-done", "clone.copied"),
            *("clone.source-kept", "clone.forked", "launcher.clone-begun", "launcher.clone-done", "clone.done"),
        ],
        lambda: kept.send("clone", body={"name": clone.name}),
        look,
    )
    assert clone.done("clone")["state"] == "stopped"
    assert clone.disk().marks() == ["two", "two"]
    assert [each["reason"] for each in kept.snapshots()[2:]] == [f"for the clone {clone.name}"]
    assert kept.says("pgrep -x sshd | wc -l") != "0"
    after = kept.view()
    assert (after["state"], after["job_id"], after["generation"]) == ("ready", before["job_id"], before["generation"])
    is_whole(clone, new_name, ["two", "two"])
    is_whole(kept, new_name, ["two", "two"])


def test_root_mode_and_what_root_did(crashing: Site, kept: Kept, new_name: Callable[[str], str]) -> None:
    kept.again()
    assert kept.says("id -un") == kept.user.name  # which also leaves the configuration for ssh
    way = [
        "root.intent-recorded",
        "launcher.snapshot-begun",
        "volumes.committed",
        "launcher.snapshot-done",
        "root.done",
    ]
    dies_at_each(crashing, way, lambda: kept.send("root"))
    kept.user.until(kept.name, lambda view: view["state"] == "ready" and view["root"], what="root mode")
    as_root(kept, "echo root >/opt/mark; chown games /opt/mark")
    disk = kept.disk()
    before = disk.record()["system"]

    def look(point: str) -> None:
        """The top of before is never written to, and a layer of root's is there as a whole or not at all."""
        system = disk.record()["system"]
        assert system == before or system["layers"][:-1] == [*before["layers"]], point

    way = points("commit-root", "commit_root", "copy.requested", "commit-root.copied", *COMING_TRUE)
    dies_at_each(crashing, way, lambda: kept.send("root/commit"), look)
    assert kept.done("commit-root")["root"]
    kept.stop()
    assert [each["reason"] for each in kept.snapshots()] == ["", "before exec --root"]
    is_whole(kept, new_name, ["two", "root"])


def test_deletion_restoring_and_purging(crashing: Site, kept: Kept, bob: User) -> None:
    disk = kept.disk()
    layers = disk.layers()

    def look(point: str) -> None:
        seen = bob.site.lab.run(["find", disk.root, f"{disk.root}/trash/{disk.id}", disk.directory], user="bob")
        assert (seen.returncode, seen.stdout.replace(f"{disk.root}\n".encode(), b"")) == (1, b""), point
        there = disk.sh(f"ls {disk.root}/sessions {disk.root}/trash").split().count(disk.id)
        assert there == 1 or point in PURGED

    dies_at_each(
        crashing,
        [
            *("delete.intent-recorded", "trash.moved", "launcher.trash-begun", "launcher.trash-done"),
            *("delete.set-aside", "delete.removed"),
        ],
        lambda: kept.send("", method="DELETE"),
        look,
    )
    wait_for(lambda: not kept.user.knows(kept.name), what="the session to be deleted")
    assert kept.name in kept.user.ok("list", "--deleted")
    dies_at_each(
        crashing,
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
    dies_at_each(
        crashing,
        [
            *("delete.intent-recorded", "purge.renamed", "collect.removing", "launcher.purge-begun"),
            *("launcher.purge-done", "delete.removed"),
        ],
        lambda: kept.send("?purge=true", method="DELETE"),
        look,
    )
    wait_for(lambda: not kept.user.knows(kept.name), what="the session to be gone")
    assert not named & disk.layers()
    assert disk.sh(f"ls -A {disk.root}/sessions {disk.root}/trash | grep {disk.id} || :") == ""


def test_flattening_and_collecting(crashing: Site, kept: Kept, new_name: Callable[[str], str]) -> None:
    """Nobody remembers these: they are asked for again, and have changed nothing until then."""
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


class TestJobs:
    """The job dies, with everything in it, without a word."""

    def test_in_the_middle_of_writing(self, kept: Kept, new_name: Callable[[str], str]) -> None:
        kept.again()
        writing = "n=0; while :; do : $((n += 1)); echo $n | tee ~/count /opt/count >~/f$((n % 100)); done"
        kept.says(f"setsid bash -c '{writing}' >/dev/null 2>&1 </dev/null &")
        wait_for(lambda: kept.says("ls ~/f* 2>/dev/null | wc -l") == "100", what="some writing")
        kept.post("snapshots", label="second")
        kept.done("snapshot")
        kill_job(kept)
        view = kept.user.wait(kept.name, "failed", "stopped")
        assert kept.user.jobs(view["id"]) == []
        assert kept.numbers() == [1, 2]
        is_whole(kept, new_name, ["two", "two"])
        assert int(kept.says("cat ~/count")) >= 100

    @pytest.mark.parametrize("how", ["killed", "stopped"])
    def test_in_the_middle_of_a_live_copy(self, kept: Kept, new_name: Callable[[str], str], how: str) -> None:
        """Then the snapshot that was asked for is taken of the session without a job."""
        kept.again()
        disk, lab = kept.disk(), kept.user.site.lab
        endless = "import pathlib, time; pathlib.Path(__file__).with_name('begun').touch(); time.sleep(1000)"
        disk.sh(f'echo "{endless}" >{disk.directory}/run/copying.py')
        with lab.popen(["berth", "snapshot", kept.name, "second"], user=kept.user.name) as asking:
            begun = ["test", "-e", f"{disk.directory}/run/begun"]
            wait_for(lambda: lab.run(begun, user=kept.user.name).returncode == 0, what="the copy to begin")
            if how == "killed":
                kill_job(kept)
            else:
                kept.user.ok("stop", kept.name, "--no-wait")
            said, told = asking.communicate(timeout=60)
        assert (asking.returncode, said) == (0, b"2\n"), told
        kept.user.wait(kept.name, "failed", "stopped")
        taken = [(each["label"], each["consistency"]) for each in kept.snapshots()]
        assert taken == [("first", "stopped"), ("second", "stopped")]
        is_whole(kept, new_name, ["two", "two"])


def armed(site: Site, point: str) -> None:
    """Launcher and controller, started anew."""
    site.kill("broker")
    begin(site, point)
    wait_for(site.api_answers, what="the controller to answer again")


def kill_job(session: Kept) -> None:
    session.user.site.lab.sh(f"scancel --full --signal=KILL {session.view()['job_id']}", user=session.user.name)


def as_root(session: Kept, script: str) -> None:
    """Run a script in a session that is in root mode, as `berth exec --root` does."""
    user, name = session.user, session.name
    status, body = user.request(
        "/v1/resolve", "-X", "POST", *as_json({"user": user.name, "target": name, "root": True})
    )
    assert status == 200, body
    place = json.loads(body)
    options = {"HostName": place["host"], "Port": place["port"], "User": "root", "ProxyCommand": "none",
               "HostKeyAlias": f"{user.name}.{name}.berth"}  # fmt: skip
    words = " ".join(f"-o {option}={value}" for option, value in options.items())
    user.site.lab.sh(f"ssh -F ~/.local/state/berth/ssh/ssh_config {words} {name}.berth -- '{script}'", user=user.name)


def as_json(body: dict[str, Any]) -> list[str]:
    return ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
