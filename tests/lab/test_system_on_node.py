"""A system volume with its top on the node's disk, as its job keeps it (ADR 120); without the broker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from broker.volumes.saves import MAX_SAVES
from tests.session_job import ROOM, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.session_job import Bench, SessionJob

PACKAGE = """set -e; cd; mkdir -p tool/DEBIAN tool/opt/tool/deep
printf 'Package: tool\\nVersion: 1\\nArchitecture: all\\nMaintainer: alice\\nDescription: tool\\n' >tool/DEBIAN/control
echo works >tool/opt/tool/deep/file
dpkg-deb --build --root-owner-group tool tool.deb >/dev/null
sudo dpkg -i tool.deb >/dev/null"""
INSTALLED = "cat /opt/tool/deep/file; dpkg -s tool | grep -c 'install ok installed'"
REFUSING = b"""#!/bin/sh
case " $* " in *" -t overlay "*) echo "mount: not permitted" >&2; exit 32 ;; esac
exec /usr/bin/mount "$@"
"""


@pytest.fixture
def kept(session: SessionJob) -> SessionJob:
    """A session whose driver is `plain`, with its system on the node."""
    session.mount("plain", home=session.home, system=session.system, on_node=True)
    return session


@pytest.fixture
def refusing_kernel(bench: Bench) -> Iterator[str]:
    """A node whose kernel seems to refuse every overlay."""
    wrapper = "/usr/local/sbin/mount"
    bench.sh(f"cat >{wrapper}; chmod 755 {wrapper}", node="c3", stdin=REFUSING)
    yield "c3"
    bench.sh(f"rm {wrapper}", node="c3")


@pytest.fixture
def small_disk(bench: Bench) -> Iterator[str]:
    """A node with little room in /tmp."""
    bench.sh("mount -t tmpfs -o size=128m,mode=1777 tmpfs /tmp", node="c3")
    yield "c3"
    bench.sh("umount --lazy /tmp", node="c3")


def saved(session: SessionJob) -> dict[str, Any]:
    """Return the record of the last save of the session's top."""
    found: dict[str, Any] = json.loads(session.bench.sh(f"cat {session.layer(session.system[0])}/saved"))
    return found


def layers(session: SessionJob) -> set[str]:
    """Every layer of the user's that there is."""
    return set(session.bench.sh(f"ls {ROOM}/alice/layers").split())


def kill(session: SessionJob) -> None:
    """End the job without a warning, with all that runs in it."""
    session.bench.sh(f"scancel --full --signal=KILL {session.jobs[-1]}")
    session.ended()


class TestSaves:
    def test_package_stays_after_a_stop_and_a_start_elsewhere(self, kept: SessionJob) -> None:
        kept.start("--nodelist=c1")
        kept.says(PACKAGE)
        kept.says("sudo rm -r /usr/share/bug; sudo mkdir /usr/share/bug; sudo rm /etc/motd; sudo mkdir -m 0 /opt/shut")
        kept.stop()
        assert kept.bench.sh(f"ls {kept.system_tree}") == "", "nothing writes to the shared file system's tree"
        assert kept.traces("c1") == []
        kept.start("--nodelist=c2")
        assert kept.says(INSTALLED) == "works\n1"
        assert kept.says("ls /usr/share/bug; ! ls /etc/motd; stat -c %a /opt/shut") == "0"
        kept.says("sudo dpkg -r tool >/dev/null; chmod 711 /")
        kept.stop()
        kept.start("--nodelist=c1")
        assert (
            kept.says("! ls /opt/tool 2>/dev/null; ls /usr/share/bug; ! ls /etc/motd; stat -c %a /opt/shut /")
            == "0\n711"
        )
        before = saved(kept)
        kept.stop()
        assert saved(kept) == before, "what has not changed is not saved"

    def test_what_was_saved_meanwhile_stays_after_a_kill(self, kept: SessionJob) -> None:
        kept.configure(BERTH_SAVE_EVERY="1")
        before = layers(kept)
        kept.start("--nodelist=c1")
        kept.says(PACKAGE)
        wait_until(lambda: saved(kept)["own"] != "", "a save", kept.log)
        first = saved(kept)["own"]
        kept.says("echo more >/opt/more; echo deep >/opt/'a name'")
        wait_until(lambda: saved(kept)["own"] != first, "another save", kept.log)
        kept.says("sleep 3")  # a save within two seconds of a change is made once more
        wait_until(lambda: layers(kept) - before == {saved(kept)["own"]}, "one layer to be left", kept.log)
        kill(kept)
        kept.start("--nodelist=c2")
        assert kept.says(f"{INSTALLED}; cat /opt/more /opt/'a name'") == "works\n1\nmore\ndeep"
        kept.stop()
        kept.start("--nodelist=c1")
        kept.stop()
        assert kept.traces("c1") == [], "what the killed job left goes with the next one"

    def test_a_live_copy_is_a_save_that_no_later_one_removes(self, kept: SessionJob) -> None:
        kept.configure(BERTH_SAVE_EVERY="5")
        kept.start("--nodelist=c1")
        kept.says(f"{PACKAGE}; echo home >~/file")
        home, system = new_id(), new_id()
        for layer in (home, system):
            kept.bench.sh(f"mkdir -m 700 {kept.layer(layer)}", user="alice")
        assert kept.copy(HOME=home, SYSTEM=system)["RESULT"] == "frozen"
        assert kept.bench.sh(f"cat {kept.layer(home)}/tree/file; ls -A {kept.layer(system)}/tree") == "home\n"
        assert (saved(kept)["own"], saved(kept)["is_kept"]) == (system, True)
        kept.says("echo more >/opt/more")
        wait_until(lambda: saved(kept)["own"] != system, "a save", kept.log)
        assert system in layers(kept)
        kill(kept)
        kept.start("--nodelist=c2")
        assert kept.says(f"{INSTALLED}; cat /opt/more") == "works\n1\nmore"
        kept.stop()
        kept.mount("plain", home=[new_id(), *kept.home], system=[new_id(), system], on_node=True)
        kept.start("--nodelist=c1")
        assert kept.says(f"{INSTALLED}; ! cat /opt/more 2>/dev/null") == "works\n1"

    def test_a_requeued_job_begins_with_what_the_run_before_has_saved(self, kept: SessionJob) -> None:
        kept.start("--nodelist=c1")
        kept.says(PACKAGE)
        kept.bench.sh(f"scontrol requeue {kept.jobs[-1]}")
        wait_until(lambda: kept.job().state == "PENDING", "the job to be requeued", kept.log)
        kept.bench.sh(f"scontrol update JobId={kept.jobs[-1]} StartTime=now")
        kept.announced(restarts=1)
        assert kept.says(INSTALLED) == "works\n1"
        assert saved(kept)["generation"] == [1, 1]

    def test_jobs_that_follow_one_another_leave_few_layers(self, kept: SessionJob) -> None:
        for number in range(MAX_SAVES + 2):
            kept.start(f"--nodelist=c{number % 3 + 1}")
            kept.says(f"echo {number} >/opt/{number}; rm -f /opt/{number - 2}; rm -f /etc/motd")
            kept.stop()
        assert len(saved(kept)["below"]) == MAX_SAVES - 1
        assert saved(kept)["own"] != ""
        kept.start("--nodelist=c1")
        assert kept.says("ls /opt; ! ls /etc/motd 2>/dev/null") == f"{MAX_SAVES}\n{MAX_SAVES + 1}"
        kept.stop()
        kept.configure(BERTH_ROOT="yes")
        kept.start("--nodelist=c2")
        assert kept.says("ls /opt; ! ls /etc/motd 2>/dev/null") == f"{MAX_SAVES}\n{MAX_SAVES + 1}"

    def test_a_warning_of_the_end_saves(self, kept: SessionJob) -> None:
        kept.start("--nodelist=c1", "--time=30")
        kept.says(PACKAGE)
        kept.bench.sh(f"scontrol update JobId={kept.jobs[-1]} TimeLimit=4")
        kept.bench.sh(f"scancel --batch --signal=USR1 {kept.jobs[-1]}")
        wait_until(lambda: saved(kept)["own"] != "", "a save", kept.log)

    def test_what_is_kept_of_a_fresh_system_is_saved(self, kept: SessionJob) -> None:
        kept.configure(BERTH_SYSTEM="fresh", BERTH_KEEP="/opt")
        kept.start("--nodelist=c1")
        kept.says("echo kept >/opt/file; echo gone >/srv/file")
        kept.stop()
        kept.start("--nodelist=c2")
        assert kept.says("cat /opt/file; ! ls /srv/file 2>/dev/null") == "kept"

    def test_what_root_installed_is_a_packed_layer(self, kept: SessionJob) -> None:
        kept.start("--nodelist=c1")
        kept.says(PACKAGE)
        kept.stop()
        kept.configure(BERTH_ROOT="yes")
        kept.start("--nodelist=c1")
        assert kept.says(INSTALLED) == "works\n1"
        kept.says("set -e; echo x >/opt/theirs; chown games /opt/theirs; chmod 4750 /opt/theirs")
        layer = new_id()
        kept.bench.sh(f"mkdir -m 700 {kept.layer(layer)}", user="alice")
        assert kept.copy(SYSTEM=layer)["RESULT"] == "frozen"
        kept.stop()
        below = saved(kept)["below"]
        assert not saved(kept)["own"]
        kept.mount("plain", home=kept.home, system=[new_id(), layer, *reversed(below)], on_node=True)
        kept.start("--nodelist=c2")
        assert kept.says("stat -c '%U %a' /opt/theirs") == "games 4750"
        kept.stop()
        kept.configure()
        kept.start("--nodelist=c2")
        assert kept.says(f"{INSTALLED}; cat /opt/theirs") == "works\n1\nx"


class TestFaults:
    def test_a_job_that_comes_back_late_overwrites_nothing(self, kept: SessionJob) -> None:
        kept.start("--nodelist=c1")
        kept.says(PACKAGE)
        later = {"generation": [2, 0], "below": [], "own": "", "is_kept": False, "at": 0.0, "replaced": []}
        kept.bench.sh(f"cat >{kept.layer(kept.system[0])}/saved", user="alice", stdin=json.dumps(later).encode())
        before = layers(kept)
        kept.stop()
        assert "start 2.0 already has the session's system; this is start 1.0" in kept.log()
        assert (saved(kept), layers(kept)) == (later, before)
        kept.submit("--nodelist=c1")
        assert kept.ended().code == 73

    def test_a_kernel_without_overlays_leaves_it_to_fuse_on_the_node(
        self, kept: SessionJob, refusing_kernel: str
    ) -> None:
        kept.start(f"--nodelist={refusing_kernel}")
        kept.says(f"{PACKAGE}; sudo rm /etc/motd; mkdir -m 500 /opt/shut")
        kept.stop()
        assert kept.traces(refusing_kernel) == []
        kept.start("--nodelist=c1")
        assert kept.says(f"{INSTALLED}; ! ls /etc/motd 2>/dev/null; stat -c %a /opt/shut") == "works\n1\n500"
        assert "root: an overlay of 4 layers, mounted by fuse" in kept.log()

    def test_a_full_disk_of_the_node_is_told_and_the_end_saves(self, kept: SessionJob, small_disk: str) -> None:
        kept.configure(BERTH_SAVE_EVERY="1")
        kept.start(f"--nodelist={small_disk}")
        # The room is taken at once, or half a copy could leave too little for the rest of the file.
        kept.says("fallocate -l 80M /opt/large && dd if=/dev/urandom of=/opt/large bs=1M count=80 conv=notrunc")
        wait_until(
            lambda: "warning: the changes outside of the home could not be saved" in kept.log(), "a warning", kept.log
        )
        # Before the copy, or while it is made.
        assert "MiB are free" in kept.log() or "No space left on device" in kept.log()
        kept.stop()
        kept.start("--nodelist=c1")
        assert kept.says("stat -c %s /opt/large") == str(80 << 20)

    def test_a_node_that_cannot_save_is_refused_with_the_remedy(self, kept: SessionJob) -> None:
        program = "/usr/bin/mksquashfs"
        kept.bench.sh(f"mv {program} {program}.away", node="c3")
        try:
            kept.submit("--nodelist=c3")
            assert kept.ended().code == 70
        finally:
            kept.bench.sh(f"mv {program}.away {program}", node="c3")
        assert "c3 lacks Python 3.11 or squashfs-tools" in kept.log()
        assert "start it on another node" in kept.log()
