"""A full disk and a used-up quota: the old state stays usable, the user gets the reason, and room lets it work."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from broker.launcher.request import VerbError
from broker.names import new_id
from tests.short_form import mostly_soak
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


def _fill_at_once(actor: Actor) -> None:
    """Take all the room without writing to it."""
    with (actor.root / "ballast").open("wb", buffering=0) as file:
        end, step = 0, SMALL
        while step:
            try:
                os.posix_fallocate(file.fileno(), end, step)
                end += step
            except OSError:
                step //= 2
    _fill(actor)


POINTS = [
    *itertools.product(["snapshot", "rollback", "switch"], ["volumes.frozen", "volumes.before-commit"]),
    *itertools.product(["clone"], ["clone.source-kept", "clone.forked"]),
    *itertools.product(["copy"], ["copy.requested", "copy.copied", "volumes.before-commit"]),
    *itertools.product(["commit_root"], ["copy.requested", "commit-root.copied", "volumes.before-commit"]),
]
REQUESTS: dict[str, dict[str, Any]] = {
    "rollback": {"snapshot": 1},
    "switch": {"to": OTHER},
    "copy": {"job_id": 1},
    "commit_root": {"job_id": 1},
}


@pytest.mark.parametrize(
    ("driver", "disk"), [("overlay", "ext4"), ("reflink", "xfs"), ("plain", "ext4")], indirect=["disk"]
)
@pytest.mark.parametrize("at_snapshot", mostly_soak(True, False))
def test_a_disk_that_gets_full_at_any_point_changes_nothing(actor: Actor, driver: str, at_snapshot: bool) -> None:
    """A request fails with the reason, and succeeds when it is repeated with room on the disk."""
    for verb, point in POINTS:
        if at_snapshot and verb != "clone":
            continue
        session = actor.make(driver)
        actor.session(session).joinpath("run").mkdir()
        (actor.top(session) / "file").write_text("first")
        (actor.top(session, "system") / "tool").write_text("first")
        actor("snapshot", session=session, operation=new_id(), label="kept")
        (actor.top(session) / "file").write_text("second")
        (actor.top(session, "system") / "tool").write_text("second")
        before, shown = actor.record(session), (actor.shows(session), actor.shows(session, "system"))
        request = {"session": session, "operation": new_id(), **REQUESTS.get(verb, {})}
        changed = session
        if verb == "clone":
            changed = new_id()
            request |= {"session": changed, "source": session, "snapshot": 1 if at_snapshot else None}
        with pytest.raises(VerbError) as refused:
            actor.stopped_at(point, lambda: _fill_at_once(actor), verb, request)
        assert refused.value.kind == "space", (verb, point, refused.value)
        after = actor.record(session)
        if verb == "clone" and not at_snapshot:
            assert not actor.session(changed).joinpath("volumes.json").exists()
            assert after.snapshots[:1] == before.snapshots
            assert all(each.automatic for each in after.snapshots[1:]), "of what was to be cloned"
        else:
            assert after == before, (verb, point)
        assert (actor.shows(session), actor.shows(session, "system")) == shown
        (actor.root / "ballast").unlink()
        actor("gc")
        assert actor.layers() == after.named_layers(), (verb, point)
        actor(verb, **request)
        assert actor("verify", session=changed)["problems"] == []
        wanted = "first" if verb == "rollback" or at_snapshot else "second"
        assert actor.shows(changed)["file"] == wanted
        for each in {session, changed}:
            actor("purge", session=each)
        actor("gc")
        assert actor.layers() == set()


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
