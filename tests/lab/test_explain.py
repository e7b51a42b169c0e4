"""How a job really ended is said in the right words by `show`, `explain` and `history`."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.errors import ExitCode
from slurm.lab.spec import COMPUTE, NODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.conftest import User


def told(user: User, name: str) -> dict[str, str]:
    """What `berth explain` says, by title; of several lines the last."""
    return {line["title"]: line["text"] for line in json.loads(user.ok("explain", name, "--json"))["lines"]}


def test_out_of_memory(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--mem=200M")
    hog = "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 20))'"
    assert alice.laptop.ssh(name, hog, seconds=60).returncode != 0
    alice.wait(name, "failed")
    lines = told(alice, name)
    assert lines["state"].startswith("failed: out of memory: the session used more than its job asked for")
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
    assert "StartTime=now` starts it at once" in told(alice, name)["do"]
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


@pytest.fixture
def full_disk(carol: User, tmp_path: Path) -> Iterator[str]:
    """A small file system for all of carol's sessions, on every node, and the file that fills it."""
    lab, place, image = carol.site.lab, "/shared/berth/carol", tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "512", image], check=True, capture_output=True, timeout=60)
    made = subprocess.run(["losetup", "-f", "--show", image], check=True, capture_output=True, text=True, timeout=60)
    device = made.stdout.strip()
    number = os.minor(Path(device).stat().st_rdev)
    lab.sh(f"[ -e {place} ] || install -d -m 700 -o carol -g carol {place}")  # what is there when it is gone again
    try:
        for node in NODES:
            lab.sh(f"[ -e {device} ] || mknod {device} b 7 {number}; mount {device} {place}", node=node)
        lab.sh(f"chown carol:carol {place}; chmod 700 {place}")
        yield f"{place}/ballast"
    finally:
        for node in NODES:
            lab.sh(f"umount --lazy {place}; rm -f {device}", node=node)
        subprocess.run(["losetup", "-d", device], check=True, capture_output=True, timeout=60)


def test_a_full_disk(carol: User, full_disk: str, new_name: Callable[[str], str]) -> None:
    """Whoever starts is told at once, and whoever looks later too; a session that runs is not touched."""
    lab, name, runs, new = carol.site.lab, new_name("no-room"), new_name("has-room"), new_name("new")
    carol.ok("start", name, "--profile", "base", "--mem=200M")
    carol.ok("stop", name)
    carol.ok("start", runs, "--profile", "base", "--mem=200M")
    # Neither room nor an inode: a few blocks are always left for whoever replaces a file.
    filling = f"cat /dev/zero >{full_disk}; i=0; while : >{full_disk}.$i; do i=$((i + 1)); done"
    assert b"No space left" in lab.run(["bash", "-c", filling], user="carol").stderr
    refused = carol.berth("start", name)
    assert refused.returncode == ExitCode.NO_SPACE
    assert f"there is no space or no quota left for {name}".encode() in refused.stderr
    assert b"`berth gc` removes what nothing needs any more" in refused.stderr
    lines = told(carol, name)
    assert lines["state"].startswith(f"stopped: there is no space or no quota left for {name}")
    assert f"`berth size {name}` says what takes how much" in lines["do"]
    assert "there is no space or no quota left" in carol.ok("show", name)
    assert "REFUSED (there is no space or no quota left" in carol.ok("history", name)
    assert carol.show(runs)["state"] == "ready"
    assert "No space left" in carol.laptop.ssh(runs, "echo more >file; sync file").stderr.decode()
    assert carol.berth("start", new, "--profile", "base").returncode == ExitCode.NO_SPACE
    assert not carol.knows(new)
    lab.sh(f"rm {full_disk}*")
    carol.ok("start", name)
