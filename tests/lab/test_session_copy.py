"""Copies of a running session's volumes: what they hold, how long the session stands still, and what goes wrong."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.volumes.copy_archive import ARCHIVE, copy_archive
from tests.deadlines import DEADLINE_S
from tests.session_job import ROOM, SessionJob, new_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.session_job import Bench

WRITER = """
import sqlite3
base = sqlite3.connect("base.db")
base.execute("pragma journal_mode=wal")
base.execute("create table if not exists numbers (n integer)")
n = 0
while True:
    with base:
        base.execute("insert into numbers values (?)", (n,))
    n += 1
"""

STORES = """
import ctypes, mmap
counters = []
for name in ("one", "two"):
    with open(name, "w+b") as file:
        file.truncate(4096)
        counters.append(ctypes.c_int64.from_buffer(mmap.mmap(file.fileno(), 4096)))
n = 0
while True:
    n += 1
    for counter in counters:
        counter.value = n
"""
"""Its pages stay dirty, so their time stamps stay old; the two files differ by one step at most, at any moment."""

SLOW = """
import pathlib, sys, time
pathlib.Path(__file__).with_name("begun").touch()
print("copied", flush=True)
sys.stdin.readline()
time.sleep(1)
print("still\\ndone")
"""


def stopped_processes(session: SessionJob) -> str:
    return session.says("grep -l '^State:.*stopped' /proc/[0-9]*/status 2>/dev/null || :")


class TestCopy:
    def test_it_has_what_home_and_system_had_and_the_session_goes_on(self, session: SessionJob, bench: Bench) -> None:
        session.start()
        session.says("echo one >~/file; echo two >/opt/file; rm /etc/motd")
        home, system = new_id(), new_id()
        outcome = session.copy(HOME=home, SYSTEM=system)
        assert outcome["RESULT"] == "frozen", session.log()
        assert outcome["MESSAGE"] == ""
        assert 0 < float(outcome["PAUSE"]) < 2
        assert bench.sh(f"cat {session.layer(home)}/tree/file {session.layer(system)}/tree/opt/file") == "one\ntwo\n"
        assert "character special" in bench.sh(f"stat -c %F {session.layer(system)}/tree/etc/motd")
        assert stopped_processes(session) == ""

    def test_it_costs_what_has_changed_since_the_last_one(self, session: SessionJob, bench: Bench) -> None:
        session.start()
        session.says("echo one >~/file")
        settled = "test $(($(date +%s) - $(stat -c %Z ~/file))) -gt 3"  # younger files are not trusted
        wait_until(lambda: session.ssh(settled).returncode == 0, "older files", session.log)
        first, second = new_id(), new_id()
        assert session.copy(HOME=first)["RESULT"] == "frozen"
        session.says("echo more >>~/file")
        assert session.copy(HOME=second, HOME_PREVIOUS=first)["RESULT"] == "frozen"
        assert bench.sh(f"cat {session.layer(first)}/tree/file {session.layer(second)}/tree/file") == "one\none\nmore\n"
        inodes = bench.sh(
            f"stat -c %i {session.layer(first)}/tree/.profile {session.layer(second)}/tree/.profile"
        ).split()
        assert inodes[0] == inodes[1]

    def test_a_database_that_is_being_written_is_whole_in_the_copy(
        self, session: SessionJob, bench: Bench, tmp_path: Path
    ) -> None:
        session.start()
        session.ssh("cat >writer.py", stdin=WRITER.encode())
        session.says("setsid python3 writer.py >/dev/null 2>&1 </dev/null &")
        wait_until(lambda: session.ssh("test -s base.db-wal").returncode == 0, "the writer", session.log)
        for _ in range(5):
            home = new_id()
            assert session.copy(HOME=home)["RESULT"] == "frozen"
            for name in ("base.db", "base.db-wal"):
                got = bench.run("cat", f"{session.layer(home)}/tree/{name}", user="alice")
                tmp_path.joinpath(name).write_bytes(got.stdout)
            base = sqlite3.connect(tmp_path / "base.db")
            assert base.execute("pragma integrity_check").fetchone() == ("ok",)
            count, most = base.execute("select count(*), max(n) from numbers").fetchone()
            assert count == most + 1
            base.close()
            for left in tmp_path.iterdir():
                left.unlink()

    def test_stores_through_mappings_are_those_of_one_moment(self, session: SessionJob, bench: Bench) -> None:
        session.start()
        session.ssh("cat >stores.py", stdin=STORES.encode())
        session.says("setsid python3 stores.py >/dev/null 2>&1 </dev/null &")
        stored = "head -c8 two | tr -d '\\0' | grep -q ."
        wait_until(lambda: session.ssh(stored).returncode == 0, "the first stores", session.log)
        previous, last = "", 0
        for _ in range(5):
            home = new_id()
            asked = {"HOME": home} | ({"HOME_PREVIOUS": previous} if previous else {})
            assert session.copy(**asked)["RESULT"] == "frozen"
            one, two = (
                int.from_bytes(
                    bench.run("head", "-c8", f"{session.layer(home)}/tree/{name}", user="alice").stdout, "little"
                )
                for name in ("one", "two")
            )
            assert 0 <= one - two <= 1
            assert two > last
            previous, last = home, one

    def test_nobody_in_the_session_notices(self, session: SessionJob) -> None:
        """A shell at a terminal does not think that its program was suspended, and what was suspended stays so."""
        session.start()
        script = (
            "set -m; sleep 1000 & kill -STOP $!; bash -ic 'touch ready; sleep 5 && echo over';"
            "grep State /proc/$!/status"
        )
        argv = session.ssh_argv("-tt", script)
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            wait_until(lambda: session.ssh("test -e ready").returncode == 0, "the shell", session.log)
            for _ in range(10):
                assert session.copy(HOME=new_id())["RESULT"] == "frozen"
            shown = client.communicate(timeout=DEADLINE_S)[0].decode()
        assert "Stopped" not in shown
        assert "over" in shown
        assert "T (stopped)" in shown

    def test_many_short_lived_processes_are_caught_too(self, session: SessionJob) -> None:
        session.start()
        busy = "import subprocess\nwhile True: subprocess.run(['true'])"
        session.says(f'for i in 1 2 3; do setsid python3 -c "{busy}" >/dev/null 2>&1 </dev/null & done')
        outcomes = [session.copy(HOME=new_id()) for _ in range(5)]
        assert {outcome["RESULT"] for outcome in outcomes} == {"frozen"}, session.log()
        assert max(float(outcome["PAUSE"]) for outcome in outcomes) < 2

    def test_a_request_that_comes_during_another_waits_its_turn(self, session: SessionJob) -> None:
        session.start()
        session.write(ARCHIVE, SLOW)
        first = session.ask_for_copy(HOME=new_id())
        begun = f"test -e {session.directory}/run/begun"
        wait_until(lambda: session.bench.run("sh", "-c", begun).returncode == 0, "the first copy", session.log)
        second = session.ask_for_copy(HOME=new_id())
        assert session.outcome(second)["RESULT"] == "frozen"
        said = re.findall(r"berth: copy (\w+): (\w+),", session.log())
        assert said == [(first, "frozen"), (second, "frozen")]

    def test_nothing_to_copy_is_done_at_once(self, session: SessionJob) -> None:
        session.start()
        assert session.copy()["RESULT"] == "frozen"


class TestFailures:
    def fails(self, session: SessionJob, copying: str, words: str) -> None:
        session.start()
        session.write(ARCHIVE, copying)
        outcome = session.copy(HOME=new_id())
        assert outcome["RESULT"] == "failed"
        assert words in outcome["MESSAGE"]
        assert session.says("echo alive") == "alive"
        assert stopped_processes(session) == ""

    def test_a_copy_that_fails_before_the_pause(self, session: SessionJob) -> None:
        self.fails(session, "raise SystemExit('No space left on device: x')", "No space left on device: x")

    def test_a_copy_that_fails_in_the_pause(self, session: SessionJob) -> None:
        text = "print('copied', flush=True); input(); raise SystemExit('Disk quota exceeded: x')"
        self.fails(session, text, "Disk quota exceeded: x")

    def test_a_copy_that_hangs_in_the_pause_is_given_up(self, session: SessionJob, bench: Bench) -> None:
        bench.sh(f"sed -i 's/^readonly FREEZE_LIMIT_S=.*/readonly FREEZE_LIMIT_S=2/' {ROOM}/session.sh")
        try:
            hanging = "import time; print('copied', flush=True); input(); time.sleep(1000)"
            self.fails(session, hanging, "not done within 2 s")
        finally:
            bench.install_script()

    def test_a_node_without_python(self, session: SessionJob, bench: Bench) -> None:
        session.start("--nodelist=c3")
        bench.sh("mv /usr/bin/python3 /usr/bin/python3.off", node="c3")
        try:
            outcome = session.copy(HOME=new_id())
        finally:
            bench.sh("mv /usr/bin/python3.off /usr/bin/python3", node="c3")
        assert outcome["RESULT"] == "failed"
        assert outcome["MESSAGE"] == "c3 has no python3, which copies a running session"

    @pytest.mark.parametrize("begun", ["", "print('copied', flush=True); input()"])
    def test_a_session_that_is_stopped_meanwhile_ends_as_always(self, session: SessionJob, begun: str) -> None:
        session.start("--nodelist=c1")
        mark = "import pathlib; pathlib.Path(__file__).with_name('begun').touch()"
        session.write(ARCHIVE, f"import time\n{begun}\n{mark}\ntime.sleep(1000)")
        asked = session.ask_for_copy(HOME=new_id())
        there = f"test -e {session.directory}/run/begun"
        wait_until(lambda: session.bench.run("sh", "-c", there).returncode == 0, "the copy", session.log)
        assert session.stop().state == "CANCELLED"
        assert session.outcome(asked)["RESULT"] == "failed"
        assert session.traces("c1") == []


FILLING = """
import os, pathlib
with open(pathlib.Path(__file__).with_name("ballast"), "ab", buffering=0) as file:
    for size in (1 << 20, 4096, 1):
        try:
            while file.write(b"x" * size):
                pass
        except OSError as error:
            said = error.strerror
raise SystemExit(f"{said}: ballast")
"""
"""Takes all free room, as another user may while a copy is made."""


@pytest.fixture
def small_disk(bench: Bench, tmp_path: Path) -> Iterator[None]:
    """A file system of its own for alice's sessions, the same on the login node and on c1."""
    image, place = tmp_path / "disk.img", f"{ROOM}/alice"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True, capture_output=True, timeout=60)
    made = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True, timeout=60)
    device = made.stdout.strip()
    number = os.minor(Path(device).stat().st_rdev)
    keys = bench.sh(f"base64 -w 0 {place}/id; echo; base64 -w 0 {place}/id.pub").splitlines()
    try:
        for node in ("login", "c1"):
            bench.sh(f"mknod {device} b 7 {number}; mount {device} {place}", node=node)
        bench.sh(f"chown alice:alice {place}; chmod 700 {place}")
        for name, text in zip(("id", "id.pub"), keys, strict=True):
            bench.sh(f"umask 077; base64 -d >{place}/{name}", user="alice", stdin=text.encode())
        yield
    finally:
        for node in ("login", "c1"):
            bench.sh(f"umount --lazy {place}; rm -f {device}", node=node)
        subprocess.run(["losetup", "-d", device], check=True, capture_output=True, timeout=60)


class TestFullDisk:
    @pytest.mark.usefixtures("small_disk")
    def test_it_is_answered_for_and_the_session_goes_on(self, bench: Bench) -> None:
        session = SessionJob(bench)
        session.prepare()
        try:
            session.start("--nodelist=c1")
            session.says("echo one >~/file")
            session.write(ARCHIVE, FILLING)
            outcome = session.copy(HOME=new_id())
            assert (outcome["RESULT"], outcome["MESSAGE"]) == ("failed", "No space left on device: ballast")
            # Log-ins, which sshd writes of into the full log; the session neither ends nor stands still.
            for _ in range(40):
                assert session.says("echo alive") == "alive"
            assert "No space left" in session.says("head -c 1M /dev/zero 2>&1 >~/more || :")
            bench.sh(f"rm {session.directory}/run/ballast")
            session.write(ARCHIVE, copy_archive())
            assert session.copy(HOME=new_id())["RESULT"] == "frozen"
        finally:
            session.stop()
