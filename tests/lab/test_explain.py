"""How a job really ended is said in the right words by `show`, `explain` and `history`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    lines = told(alice, name)
    assert lines["state"] == "stopped: the job was cancelled outside Berth"
    assert f"`berth start {name}` starts it again" in lines["do"]
    assert "CANCELLED (the job was cancelled outside Berth)" in alice.ok("history", name)


def test_an_image_that_is_gone(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    alice.ok("stop", name)
    lab = alice.site.lab
    image = str(json.loads(alice.ok("profile", "show", "base", "--json"))["path"])
    alice.ok("start", name, "--no-wait", "--begin=now+1hour")
    job = alice.wait(name, "queued")["job_id"]
    assert "StartTime=now` starts it at once" in told(alice, name)["do"]
    lab.sh(f"mv {image} {image}.away")
    try:
        lab.sh(f"scontrol update JobId={job} StartTime=now")
        alice.wait(name, "failed")
    finally:
        lab.sh(f"mv {image}.away {image}")
    lines = told(alice, name)
    assert lines["state"].startswith("failed: the job failed")
    assert lines["log"].endswith(f"the image {image} is not there or cannot be read")
    assert "FAILED (the job failed" in alice.ok("history", name)
    alice.ok("start", name, "--begin=now")
