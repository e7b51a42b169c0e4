"""A full disk and a used-up quota: the old state stays usable, the user is told, and with room it works."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from broker.identifiers import new_id
from broker.launcher_place import VerbError
from tests.volumes.act import OTHER, Actor
from tests.volumes.filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SMALL = 600 * 2**20
CONTENT = 60 * 2**20
"""Bytes of one file that cannot be compressed: more than what is left free."""


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system of the kind that the test names."""
    with mounted(request.param, tmp_path, size=SMALL) as found:
        yield found.path


@pytest.fixture
def actor(disk: Path) -> Actor:
    """A user's directory on it."""
    root = disk / "user"
    root.mkdir(mode=0o700)
    return Actor(root)


def _write(path: Path, size: int) -> None:
    """Write what cannot be compressed, as much as there is room for."""
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        for _ in range(size >> 20):
            file.write(os.urandom(2**20))


def _fill(actor: Actor) -> Path:
    ballast = actor.root / "ballast"
    for _ in range(3):  # what others free in between is filled too
        _write(ballast, 2 * SMALL)
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(b"x" * 512):
            pass
    return ballast


OPERATIONS: list[tuple[str, dict[str, Any]]] = [
    ("snapshot", {}),
    ("rollback", {"snapshot": 1}),
    ("switch", {"to": OTHER}),
]


@pytest.mark.parametrize(
    ("driver", "disk"), [("reflink", "xfs"), ("plain", "xfs"), ("plain", "ext4")], indirect=["disk"]
)
def test_a_full_disk_leaves_the_old_state_and_says_so(actor: Actor, driver: str) -> None:
    session = actor.make(driver)
    _write(actor.top(session) / "content", CONTENT)
    actor("snapshot", session=session, operation=new_id())
    before, layers = actor.record(session), actor.layers()
    ballast = _fill(actor)
    asked = {verb: new_id() for verb, _ in OPERATIONS}
    for verb, request in OPERATIONS:
        with pytest.raises(VerbError) as refused:
            actor(verb, session=session, operation=asked[verb], **request)
        assert refused.value.kind == "space", refused.value
        assert actor.record(session) == before
    ballast.unlink()
    actor("gc")
    assert actor.layers() == layers
    for verb, request in OPERATIONS[:2]:
        actor(verb, session=session, operation=asked[verb], **request)
    assert actor("verify", session=session)["problems"] == []


@pytest.mark.parametrize("driver", ["reflink", "plain"])
@pytest.mark.parametrize("disk", ["btrfs"], indirect=True)
def test_a_used_up_quota_leaves_the_old_state_and_says_so(disk: Path, driver: str) -> None:
    """Of a subvolume: the one quota that every kernel with btrfs has, with EDQUOT as any other."""
    _btrfs("quota", "enable", disk)
    _btrfs("subvolume", "create", disk / "user")
    actor = Actor(disk / "user")
    actor.root.chmod(0o700)
    session = actor.make(driver)
    _write(actor.top(session) / "content", 8 * 2**20)
    actor("snapshot", session=session, operation=new_id())
    before = actor.record(session)
    os.sync()
    _btrfs("qgroup", "limit", "24M", actor.root)
    _write(actor.root / "ballast", 2**25)
    with pytest.raises(VerbError) as refused:
        actor("rollback", session=session, operation=new_id(), snapshot=1)
    assert refused.value.kind == "space", refused.value
    assert actor.record(session) == before
    _btrfs("qgroup", "limit", "none", actor.root)
    actor("rollback", session=session, operation=new_id(), snapshot=1)
    assert actor("verify", session=session)["problems"] == []


def _btrfs(*words: str | Path) -> None:
    subprocess.run(["btrfs", *words], check=True, capture_output=True, timeout=60)
