"""Slurm's fence holds inside a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.conftest import User

_OPEN_EACH = (
    "for d in /dev/dri/renderD*; do "
    "if dd if=$d of=/dev/null bs=1 count=1 2>/dev/null; then echo open; else echo refused; fi; done"
)


def test_one_gpu_of_two_can_be_opened(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--gres=gpu:intel:1")
    done = alice.laptop.ssh(name, _OPEN_EACH)
    assert sorted(done.stdout.decode().split()) == ["open", "refused"]
    assert alice.laptop.ok(name, "echo $ZE_AFFINITY_MASK").strip() == b"0"


def test_without_a_gpu_none_can_be_opened(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base")
    assert alice.laptop.ok(name, _OPEN_EACH).split() == [b"refused", b"refused"]


def test_a_memory_overrun_ends_as_out_of_memory_in_words(alice: User, name: str) -> None:
    alice.ok("start", name, "--profile", "base", "--mem=200M")
    hog = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    done = alice.berth("exec", name, "--", "python3", "-c", hog)
    assert done.returncode == 255
    assert done.stderr.decode().splitlines()[-2:] == [
        f"berth: {name} ran out of memory, and its job ended: its limit was --mem=200M",
        f"  hint: `berth start {name} --mem=400M` doubles its memory; all files and other options are kept; "
        f"`berth explain {name}` has more",
    ]
    view = alice.wait(name, "failed")
    assert view["outcome"] == "OUT_OF_MEMORY"
    shown = alice.ok("show", name)
    assert "OUT_OF_MEMORY" in shown
    assert "--mem" in shown
    alice.ok("start", name, "--mem=1G")
