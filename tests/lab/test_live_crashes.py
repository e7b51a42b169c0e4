"""`kill -9` while a session runs: of those who have it copied or changed as root, and of its job."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest

from broker.volumes.copy_archive import ARCHIVE
from tests.lab.dying import COMING_TRUE, is_whole, points, stopped_session
from tests.lab.kept import Kept, as_json
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    return stopped_session(alice, name)


def test_a_snapshot_and_a_clone_of_a_running_session(
    dies: Callable[..., None], kept: Kept, new_name: Callable[[str], str]
) -> None:
    kept.again()
    before, disk = kept.view(), kept.disk()
    copying = ["copy.requested", "copy.signalled", "copy.copied"]

    def look(point: str) -> None:
        assert disk.marks() == ["two", "two"], point

    ask = lambda: kept.send("snapshots", body={"label": "second"})  # noqa: E731 - one of two
    dies(points("snapshot", "copy", *copying, "volumes.committed"), ask, look)
    kept.done("snapshot")
    assert kept.numbers() == [1, 2]
    clone = Kept(kept.user, new_name("c"))
    dies(
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


@pytest.mark.soak
def test_root_mode_and_what_root_did(dies: Callable[..., None], kept: Kept, new_name: Callable[[str], str]) -> None:
    kept.again()
    assert kept.says("id -un") == kept.user.name  # which also leaves the configuration for ssh
    way = [
        "root.intent-recorded",
        "launcher.snapshot-begun",
        "volumes.committed",
        "launcher.snapshot-done",
        "root.done",
    ]
    dies(way, lambda: kept.send("root"))
    kept.user.until(kept.name, lambda view: view["state"] == "ready" and view["root"], what="root mode")
    as_root(kept, "echo root >/opt/mark; chown games /opt/mark")
    disk = kept.disk()
    before = disk.record()["system"]

    def look(point: str) -> None:
        """The top of before is never written to, and a layer of root's is there as a whole or not at all."""
        system = disk.record()["system"]
        assert system == before or system["layers"][:-1] == [*before["layers"]], point

    way = points("commit-root", "commit_root", "copy.requested", "commit-root.copied", *COMING_TRUE)
    dies(way, lambda: kept.send("root/commit"), look)
    assert kept.done("commit-root")["root"]
    kept.stop()
    assert [each["reason"] for each in kept.snapshots()] == ["", "before exec --root"]
    is_whole(kept, new_name, ["two", "root"])


class TestJobs:
    """The job dies, with everything in it, without a word."""

    def test_in_the_middle_of_writing(self, kept: Kept, new_name: Callable[[str], str]) -> None:
        kept.again()
        writing = "n=0; while :; do : $((n += 1)); echo $n | tee -a ~/count /opt/count >~/f$((n % 100)); done"
        kept.says(f"setsid bash -c '{writing}' >/dev/null 2>&1 </dev/null &")
        wait_for(lambda: kept.says("ls ~/f* 2>/dev/null | wc -l") == "100", what="some writing")
        kept.post("snapshots", label="second")
        kept.done("snapshot")
        kill_job(kept)
        view = kept.user.wait(kept.name, "failed", "stopped")
        assert set(kept.user.jobs(view["id"])) <= {str(view["job_id"])}, "no other job"
        wait_for(lambda: kept.user.jobs(view["id"]) == [], what="squeue to show the killed one no more")
        assert kept.numbers() == [1, 2]
        is_whole(kept, new_name, ["two", "two"])
        assert int(kept.says("wc -l <~/count")) >= 100

    @pytest.mark.parametrize("how", ["killed", "stopped"])
    def test_in_the_middle_of_a_live_copy(self, kept: Kept, new_name: Callable[[str], str], how: str) -> None:
        """Then the snapshot that was asked for is taken of the session without a job."""
        kept.again()
        disk, lab = kept.disk(), kept.user.site.lab
        endless = "import pathlib, time; pathlib.Path(__file__).with_name('begun').touch(); time.sleep(1000)"
        disk.sh(f'echo "{endless}" >{disk.directory}/run/{ARCHIVE}')
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


def kill_job(session: Kept) -> None:
    session.user.site.lab.sh(f"scancel --full --signal=KILL {session.view()['job_id']}", user=session.user.name)


def as_root(session: Kept, script: str) -> None:
    """Run a script in a session that is in root mode, as `berth exec --root` does."""
    user, name = session.user, session.name
    status, body = user.request(
        "/v1/resolve", "-X", "POST", *as_json({"user": user.name, "target": name, "root": True})
    )
    assert status == HTTPStatus.OK, body
    place = json.loads(body)
    options = {"HostName": place["host"], "Port": place["port"], "User": "root", "ProxyCommand": "none",
               "HostKeyAlias": f"{user.name}.{name}.berth"}  # fmt: skip
    words = " ".join(f"-o {option}={value}" for option, value in options.items())
    user.site.lab.sh(f"ssh -F ~/.local/state/berth/ssh/ssh_config {words} {name}.berth -- '{script}'", user=user.name)
