"""The real end of a job is described in the right words by `show`, `explain` and `history`."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.errors import ExitCode
from slurm.lab.spec import COMPUTE, NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User


def told(user: User, name: str) -> dict[str, str]:
    """Return the lines of `berth explain` by title; of several lines the last."""
    return {line["title"]: line["text"] for line in json.loads(user.ok("explain", name, "--json"))["lines"]}


def test_out_of_memory(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--mem=200M")
    hog = "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'"
    assert alice.laptop.ssh(name, hog, seconds=60).returncode != 0
    alice.wait(name, "failed")
    lines = told(alice, name)
    assert lines["state"].startswith("failed: out of memory: the session used more than its job requested")
    assert "--mem=" in lines["do"]
    assert "a process of the session was killed" in lines["log"]
    assert "OUT_OF_MEMORY" in alice.ok("history", name)


def test_cancelled_by_an_administrator(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.site.lab.sh(f"scancel {alice.show(name)['job_id']}")
    alice.wait(name, "stopped")
    because = "the job was cancelled outside Berth, by root"
    alice.until(name, lambda view: bool(view["reason"] == because), what="accounting to say who it was")
    lines = told(alice, name)
    assert lines["state"] == f"stopped: {because}"
    assert f"`berth start {name}` starts it again" in lines["do"]
    assert f"CANCELLED ({because})" in alice.ok("history", name)


def test_an_image_that_is_gone(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.ok("stop", name)
    lab = alice.site.lab
    image = str(json.loads(alice.ok("profile", "show", "base", "--json"))["path"])
    alice.ok("start", name, "--no-wait", "--begin=now+1hour")
    job = alice.wait(name, "queued")["job_id"]
    assert f"start it at once with `scontrol update JobId={job} StartTime=now`" in told(alice, name)["do"]
    folder = image.rpartition("/")[0]
    for node in COMPUTE:  # on this lab's nodes only: other labs have the same store
        lab.sh(f"mount -t tmpfs -o ro none {folder}", node=node)
    try:
        lab.sh(f"scontrol update JobId={job} StartTime=now")
        alice.wait(name, "failed")
    finally:
        for node in COMPUTE:
            lab.sh(f"umount {folder}", node=node)
    lines = told(alice, name)
    assert lines["state"].startswith("failed: the job failed")
    assert lines["log"].endswith(f"the image {image} is not there or cannot be read")
    assert "FAILED (the job failed" in alice.ok("history", name)
    alice.ok("start", name, "--begin=now")


@dataclass(frozen=True)
class Disk:
    """A file system, of no other but carol, that can be filled."""

    carol: User
    said: str
    """By the kernel when no more fits in."""

    def fill(self) -> None:
        # Neither room nor an inode: a few blocks are always left for whoever replaces a file.
        ballast = f"{PLACE}/ballast"
        filling = f"cat /dev/zero >{ballast}; i=0; while : >{ballast}.$i; do i=$((i + 1)); done"
        done = self.carol.site.lab.run(["bash", "-c", filling], user="carol")
        assert self.said in done.stderr.decode()

    def empty(self) -> None:
        self.carol.site.lab.sh(f"rm {PLACE}/ballast*")


PLACE = "/shared/berth/carol"


def _ext4(device: str, _: Path) -> None:
    _run("mkfs.ext4", "-q", "-m", "0", "-N", "512", device)


def _btrfs_with_quota(device: str, place: Path) -> None:
    """Set a quota on a subvolume: every kernel with btrfs has it, with EDQUOT as for any other quota."""
    _run("mkfs.btrfs", "-q", device)
    _run("mount", device, place)
    try:
        _run("btrfs", "quota", "enable", place)
        _run("btrfs", "subvolume", "create", place / "user")
        _run("btrfs", "qgroup", "limit", "64M", place / "user")
    finally:
        _run("umount", place)


KINDS = {
    "full": (64 << 20, _ext4, "", "No space left on device"),
    "quota": (512 << 20, _btrfs_with_quota, "-o subvol=user", "Disk quota exceeded"),
}


@pytest.fixture(params=KINDS)
def disk(request: pytest.FixtureRequest, carol: User, tmp_path: Path) -> Iterator[Disk]:
    """A small file system, or one with a small quota, for all of carol's sessions, on every node."""
    room, make, options, said = KINDS[request.param]
    lab, image, mounted = carol.site.lab, tmp_path / "disk.img", tmp_path / "mounted"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(room)
    device = _run("losetup", "-f", "--show", image).strip()
    number = os.minor(Path(device).stat().st_rdev)
    lab.sh(f"[ -e {PLACE} ] || install -d -m 700 -o carol -g carol {PLACE}")  # what is there when it is gone again
    try:
        make(device, mounted)
        for node in NODES:
            lab.sh(f"[ -e {device} ] || mknod {device} b 7 {number}; mount {options} {device} {PLACE}", node=node)
        lab.sh(f"chown carol:carol {PLACE}; chmod 700 {PLACE}")
        yield Disk(carol, said)
    finally:
        for node in NODES:
            lab.sh(f"umount --lazy {PLACE}; rm -f {device}", node=node)
        _run("losetup", "-d", device)


def _run(*words: str | Path) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_full_disk_or_quota(carol: User, disk: Disk, new_name: Callable[[str], str]) -> None:
    """A start reports it at once, and a later `show` too; a session that runs is not touched."""
    name, runs, new = new_name("no-room"), new_name("has-room"), new_name("new")
    carol.ok("start", name, "--profile", "base", "--mem=200M")
    carol.ok("stop", name)
    carol.ok("start", runs, "--profile", "base", "--mem=200M")
    disk.fill()
    refused = carol.berth("start", name)
    assert refused.returncode == ExitCode.NO_SPACE
    assert f"there is no space or no quota left for {name}".encode() in refused.stderr
    assert b"`berth gc` removes data that no session needs" in refused.stderr
    lines = told(carol, name)
    assert lines["state"].startswith(f"stopped: there is no space or no quota left for {name}")
    assert f"`berth size {name}` shows the session's disk usage" in lines["do"]
    assert "there is no space or no quota left" in carol.ok("show", name)
    assert "REFUSED (there is no space or no quota left" in carol.ok("history", name)
    assert carol.show(runs)["state"] == "ready"
    before = carol.show(runs)
    restarted = carol.berth("restart", runs, "--timeout", "60", seconds=90)
    assert restarted.returncode == ExitCode.NO_SPACE, restarted.stderr
    after = carol.wait(runs, "ready")
    assert (after["job_id"], after["generation"], after["endpoint"]) == tuple(
        before[part] for part in ("job_id", "generation", "endpoint")
    )
    assert disk.said in carol.laptop.ssh(runs, "echo more >file; sync file").stderr.decode()
    assert carol.berth("start", new, "--profile", "base").returncode == ExitCode.NO_SPACE
    assert not carol.knows(new)
    disk.empty()
    carol.ok("start", name)
