"""The commands for volumes, with real jobs: snapshots, rollbacks, clones, other images, deletion."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.kept import Kept
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User


@pytest.fixture
def kept(alice: User, name: str) -> Kept:
    """A session that was not started yet."""
    return Kept(alice, name)


@pytest.fixture
def another(alice: User, new_name: Callable[[str], str]) -> Callable[[], Kept]:
    """Makes names for clones."""
    return lambda: Kept(alice, new_name("c"))


def undo(session: Kept) -> None:
    """Type in what the last operation said takes it back."""
    berth, *words = shlex.split(session.view()["operation"]["undo"])
    assert berth == "berth"
    session.user.ok(*words, "--yes", "--timeout", "60", seconds=90)


class TestSnapshots:
    def test_a_running_session_goes_back_under_its_name_and_the_printed_command_undoes_it(self, kept: Kept) -> None:
        kept.start()
        kept.mark("one")
        made = kept.snapshot()
        assert made["consistency"] == "frozen"
        assert made["pause"] < 2
        kept.mark("two")
        kept.says("rm ~/.profile; rm -r /usr/share/bug")
        before = kept.view()
        done = kept.user.berth("rollback", kept.name, str(made["number"]), "--yes", "--timeout", "60", seconds=90)
        assert done.returncode == 0, done.stderr
        after = kept.view()
        assert after["operation"]["undo"] in done.stderr.decode()
        assert (after["state"], after["generation"]) == ("ready", "2.0")
        for same in ("id", "name", "host_key_fingerprint", "options"):
            assert after[same] == before[same]
        assert kept.user.jobs(after["id"]) == [str(after["job_id"])]
        assert (
            kept.user.laptop.ssh(kept.name, "cat mark /opt/mark; ls .profile /usr/share/bug").stdout[:8]
            == b"one\none\n"
        )
        undo(kept)
        assert kept.marks() == ["two", "two"]
        assert kept.says("ls -d ~/.profile /usr/share/bug 2>/dev/null || :") == ""
        undo(kept)
        assert kept.marks() == ["one", "one"]
        kept.verified()

    def test_a_stopped_session_goes_back_and_stays_stopped(self, kept: Kept) -> None:
        kept.start()
        kept.mark("one")
        kept.stop()
        assert kept.snapshot("first")["consistency"] == "stopped"
        kept.disk().mark("two")
        kept.user.ok("rollback", kept.name, "first")
        view = kept.view()
        assert (view["state"], view["job_id"]) == ("stopped", view["job_id"])
        assert kept.user.jobs(view["id"]) == []
        assert [(each["number"], each["label"], each["automatic"]) for each in kept.snapshots()] == [
            (1, "first", False), (2, "", True)
        ]  # fmt: skip
        kept.again()
        assert kept.marks() == ["one", "one"]

    def test_a_second_live_snapshot_costs_only_what_has_changed(self, kept: Kept) -> None:
        kept.start()
        kept.says("mkdir ~/data; for n in $(seq 50); do echo $n >~/data/$n; done; echo old >/opt/file")
        # A file that was written a moment ago may be written again without another time stamp, so it is no base yet.
        old = "((EPOCHSECONDS - $(stat -c %Y /opt/file) > 2)) && echo old || :"
        wait_for(lambda: kept.says(old) == "old", what="the files to be old enough to be linked to")
        kept.snapshot()
        kept.says("echo new >~/data/7; rm ~/data/8; echo more >~/data/51")
        kept.snapshot()
        disk = kept.disk()
        first, second = (disk.tree(each["home"][-1]) for each in disk.record()["snapshots"])
        inodes = 'cd {}/data; stat -c "%i %n" * | sort'
        there, now = (set(disk.sh(inodes.format(tree)).splitlines()) for tree in (first, second))
        assert {line.split()[1] for line in now - there} == {"7", "51"}
        assert {line.split()[1] for line in there - now} == {"7", "8"}
        assert len(now & there) == 48
        first, second = (disk.tree(each["system"][-1]) for each in disk.record()["snapshots"])
        assert disk.sh(f"stat -c %i {first}/opt/file") == disk.sh(f"stat -c %i {second}/opt/file")
        assert disk.sh(f"cat {first}/../../{disk.record()['snapshots'][0]['home'][-1]}/tree/data/7") == "7"
        kept.verified()

    def test_a_snapshot_is_taken_in_the_background_and_the_session_goes_on(self, kept: Kept) -> None:
        """A program that counts on and on is not ended by it, nor its terminal's shell."""
        kept.start()
        kept.says("setsid bash -c 'n=0; while :; do echo $((n += 1)) >~/count.new; mv ~/count.new ~/count; done' "
                  ">/dev/null 2>&1 </dev/null & echo $! >~/pid")  # fmt: skip
        before = kept.view()
        kept.snapshot()
        seen = int(kept.says("kill -0 $(cat ~/pid); cat ~/count"))
        wait_for(lambda: int(kept.says("cat ~/count")) > seen, what="the program to go on counting")
        after = kept.view()
        assert (after["state"], after["job_id"]) == ("ready", before["job_id"])


class TestLookingInto:
    def test_diff_size_verify_and_gc_say_what_is_there(self, kept: Kept) -> None:
        kept.start()
        kept.mark("one")
        kept.says(
            "rm /etc/motd 2>/dev/null || :; rm /etc/issue; echo x >>/etc/hosts.allow; head -c 5000000 /dev/zero >~/big"
        )
        kept.snapshot("first")
        kept.says("echo two >~/mark; rm ~/big")
        kept.stop()
        whole = diff(kept)
        assert whole["base"] == "profile base@2"
        assert ("A", f"/home/{kept.user.name}/mark") in changes(whole)
        assert {("A", "/opt/mark"), ("D", "/etc/issue")} <= changes(whole)
        since = changes(diff(kept, "--from", "first"))
        assert since == {("M", f"/home/{kept.user.name}/mark"), ("D", f"/home/{kept.user.name}/big")}
        sizes = {line["what"]: line for line in json.loads(kept.user.ok("size", kept.name, "--json"))["lines"]}
        assert sizes["snapshot 1"]["own"] >= 5_000_000
        assert sizes["home"]["total"] < 1_000_000
        report = json.loads(kept.user.ok("verify", kept.name, "--json"))
        assert (report["problems"], report["recorded"]) == ([], report["layers"])
        kept.user.ok("snapshots", kept.name, "--delete", "first", "--yes")
        kept.user.ok("gc")
        disk = kept.disk()
        wait_for(lambda: unnamed(disk.layers(), kept) == set(), what="what the snapshot had to be removed")
        nothing = json.loads(kept.user.ok("gc", "--dry-run", "--json"))
        assert (nothing["layers"], nothing["bytes"]) == (0, 0)
        kept.again()
        assert kept.marks() == ["two", "one"]

    def test_a_layer_that_was_tampered_with_is_told_with_its_file(self, kept: Kept) -> None:
        kept.start()
        kept.mark("one")
        kept.stop()
        kept.snapshot()
        kept.verified()
        disk = kept.disk()
        disk.sh(f"echo changed >{disk.tree(disk.record()['home']['layers'][0])}/mark")
        done = kept.user.berth("verify", kept.name)
        assert done.returncode == 1
        assert b"mark" in done.stdout

    def test_a_flattened_session_shows_the_same_and_keeps_its_snapshots(self, kept: Kept) -> None:
        kept.start()
        kept.mark("one")
        kept.stop()
        kept.snapshot("one")
        disk = kept.disk()
        disk.mark("two")
        kept.snapshot("two")
        kept.again()
        kept.says("rm ~/.profile /etc/issue; rm -r /usr/share/bug; mkdir /usr/share/bug")
        kept.stop()
        kept.snapshot("three")
        assert kept.view()["volumes"]["layers"] == {"home": 3, "system": 3}
        kept.user.ok("flatten", kept.name)
        wait_for(lambda: kept.view()["volumes"]["layers"] == {"home": 1, "system": 1}, what="one layer of three")
        kept.again()
        assert kept.marks() == ["two", "two"]
        gone = "for f in ~/.profile /etc/issue /usr/share/bug/*; do test ! -e $f || echo $f; done"
        assert kept.says(f"{gone}; ls -d /usr/share/bug") == "/usr/share/bug"
        kept.verified()
        kept.user.ok("rollback", kept.name, "one", "--yes", "--timeout", "60", seconds=90)
        assert kept.marks() == ["one", "one"]
        assert kept.says("ls ~/.profile /etc/issue") != ""


class TestClones:
    def test_clones_of_now_and_of_then_go_ways_of_their_own(self, kept: Kept, another: Callable[[], Kept]) -> None:
        kept.start()
        kept.mark("one")
        kept.snapshot("first")
        kept.mark("two")
        running, then, stopped = another(), another(), another()
        kept.user.ok("clone", kept.name, running.name, "--start", seconds=120)
        kept.user.ok("clone", kept.name, then.name, "--at", "first")
        assert kept.view()["state"] == "ready", "the source of a clone goes on"
        assert running.marks() == ["two", "two"]
        assert running.view()["host_key_fingerprint"] != kept.view()["host_key_fingerprint"]
        running.mark("three")
        running.stop()
        kept.stop()
        kept.user.ok("clone", kept.name, stopped.name)
        marks = [each.disk().marks() for each in (kept, running, then, stopped)]
        assert marks == [[text, text] for text in ("two", "three", "one", "two")]
        kept.user.ok("delete", kept.name, "--purge", "--yes", seconds=60)
        kept.user.ok("gc")
        for clone in (running, then, stopped):
            clone.verified()
        then.again()
        assert then.marks() == ["one", "one"], "a clone needs nothing of its source any more"

    def test_a_clone_to_another_image_has_the_home_and_a_fresh_system(
        self, kept: Kept, another: Callable[[], Kept], other: str
    ) -> None:
        kept.start()
        kept.mark("one")
        beside = another()
        kept.user.ok("clone", kept.name, beside.name, "--profile", other, "--start", seconds=120)
        assert beside.marks() == ["one", "-"]
        assert (beside.says("cat /etc/motd"), beside.view()["profile"]) == ("other", other)
        assert kept.marks() == ["one", "one"]

    def test_a_clone_whose_name_is_taken_leaves_nothing(self, kept: Kept, another: Callable[[], Kept]) -> None:
        kept.start()
        taken = another()
        kept.user.ok("clone", kept.name, taken.name)
        before = kept.numbers()
        refused = kept.user.berth("clone", kept.name, taken.name)
        assert refused.returncode == 5
        assert kept.numbers() == before


class TestSwitch:
    def test_there_and_back_with_one_home_and_a_system_for_each(self, kept: Kept, other: str) -> None:
        kept.start()
        kept.mark("base")
        fingerprint = kept.view()["host_key_fingerprint"]
        kept.user.ok("switch", kept.name, f"{other}@1", "--yes", "--timeout", "60", seconds=90)
        assert kept.marks() == ["base", "-"]
        assert kept.says("cat /opt/other") == "only in other"
        kept.mark("other")
        kept.user.ok("switch", kept.name, "base", "--yes", "--timeout", "60", seconds=90)
        assert kept.marks() == ["other", "base"]
        assert kept.says("ls /opt") == "mark"
        kept.stop()
        kept.user.ok("switch", kept.name, other)
        assert kept.view()["state"] == "stopped"
        kept.again()
        assert kept.marks() == ["other", "other"]
        undo(kept)
        assert (kept.view()["profile"], kept.view()["host_key_fingerprint"]) == ("base", fingerprint)
        assert kept.marks() == ["other", "base"]
        kept.user.ok("switch", kept.name, other, "--fresh", "--yes", "--timeout", "60", seconds=90)
        assert kept.marks() == ["other", "-"]
        kept.verified()

    def test_an_image_that_is_not_there_is_refused_before_anything_stops(self, kept: Kept) -> None:
        kept.start()
        before = kept.view()
        assert kept.user.berth("switch", kept.name, "nothing", "--yes").returncode == 3
        after = kept.view()
        assert (after["revision"], after["state"]) == (before["revision"], "ready")


def test_what_was_chosen_at_the_start_is_kept_or_fresh(kept: Kept) -> None:
    kept.start("--fresh", "system", "--keep", "/opt/cache", "--fresh", "~/.config/app")
    kept.mark("one")
    kept.says("mkdir -p ~/.config/app ~/.config/tool; touch ~/.config/app/x ~/.config/tool/x /opt/cache/x")
    kept.stop()
    kept.again()
    assert kept.marks() == ["one", "-"]
    assert kept.says("ls /opt ~/.config; ls ~/.config/app ~/.config/tool /opt/cache | grep -c x").endswith("\n2")
    shown = kept.user.ok("show", kept.name)
    assert "/opt/cache" in shown


def test_a_renamed_session_is_reached_by_its_new_name_alone(kept: Kept, another: Callable[[], Kept]) -> None:
    kept.start()
    kept.mark("one")
    refused = kept.user.berth("rename", kept.name, "x")
    assert (refused.returncode, b"only a stopped session can be renamed" in refused.stderr) == (5, True)
    kept.stop()
    renamed = another()
    said = kept.user.berth("rename", kept.name, renamed.name)
    assert said.stderr.decode().splitlines()[-1] == f"to undo: berth rename {renamed.name} {kept.name}"
    assert not kept.user.knows(kept.name)
    renamed.again()
    assert renamed.marks() == ["one", "one"]
    assert kept.user.laptop.ok(renamed.name, "cat mark") == b"one\n"
    assert kept.user.laptop.ssh(kept.name, "true").returncode == 255
    renamed.says("mkdir results; echo 'of two' >'results/two words'")
    here = f"/shared/home/{kept.user.name}/{renamed.name}"
    kept.user.ok("cp", f"{renamed.name}:results", here)
    kept.user.ok("cp", "-p", f"{here}/two words", f"{renamed.name}:copied back")
    assert renamed.says("cat 'copied back'") == "of two"
    renamed.stop()


class TestDeletion:
    def test_deleted_restored_under_another_name_and_purged(self, kept: Kept, another: Callable[[], Kept]) -> None:
        kept.start()
        kept.mark("one")
        kept.stop()
        kept.snapshot("first")
        view, disk = kept.view(), kept.disk()
        kept.user.ok("delete", kept.name, "--yes")
        assert not kept.user.knows(kept.name)
        listed = json.loads(kept.user.ok("list", "--deleted", "--json"))["sessions"]
        assert kept.name in [each["name"] for each in listed]
        kept.user.ok("gc")
        back = another()
        kept.user.ok("restore", kept.name, "--as", back.name)
        assert (back.view()["id"], back.view()["state"]) == (view["id"], "stopped")
        back.again()
        assert back.marks() == ["one", "one"]
        assert back.view()["host_key_fingerprint"] != view["host_key_fingerprint"], (
            "laptops may know the old one as revoked"
        )
        assert [each["label"] for each in back.snapshots()] == ["first"]
        back.verified()
        back.stop()
        layers = named(disk.record())
        kept.user.ok("delete", back.name, "--purge", "--yes")
        wait_for(lambda: not layers & disk.layers(), what="the layers to be removed")
        gone = f"ls -d {disk.directory} {disk.root}/trash/{view['id']} 2>/dev/null || :"
        assert disk.sh(gone) == ""
        assert kept.user.berth("restore", back.name).returncode == 3


def diff(session: Kept, *words: str) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(session.user.ok("diff", session.name, *words, "--json"))
    return report


def changes(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(each["change"], each["path"]) for each in report["files"]}


def named(record: dict[str, Any]) -> set[str]:
    """The layers that a record names."""
    layers = set[str]()
    for stack in [record["home"], record["system"]]:
        layers |= {stack["top"], stack["copied"], *stack["layers"]}
    for each in record["snapshots"]:
        layers |= {*each["home"], *each["system"]}
    return layers - {""}


def unnamed(layers: set[str], session: Kept) -> set[str]:
    """Return the user's layers that no session of theirs names, deleted ones included, and no batch job."""
    disk = session.disk()
    files = [
        f"{disk.root}/{place}/*/{name}" for place in ("sessions", "trash") for name in ("volumes.json", "run/jobs/*")
    ]
    files.append(f"{disk.root}/layers/*/saved")  # what jobs have saved of a system on their nodes' disks
    records = disk.sh(f"cat {' '.join(files)} 2>/dev/null || :")
    return {layer for layer in layers if layer not in records}
