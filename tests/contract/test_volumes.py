"""One suite over all drivers, each on a file system that it is made for: whatever happens to a session's volumes, they
show what a plain directory would show to which the same had happened.
"""

from __future__ import annotations

import itertools
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from broker.names import new_id
from broker.volumes import garbage, live_snapshot, operations
from broker.volumes.operations import SnapshotNote
from profiles.removal import remove_tree
from tests.volumes.filesystems import mounted
from tests.volumes.history import STEPS, History, comparable, copy_here
from tests.volumes.running import IMAGE, OTHER_IMAGE, Running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from _pytest.mark.structures import ParameterSet

    from tests.volumes.changes import Tree

GROUNDS = ["overlay-ext4", "overlay-xfs", "overlay-btrfs", "reflink-xfs", "reflink-btrfs", "plain-ext4"]
ON_NODE = "node-ext4"
"""The driver `plain`, with the system volume's top on the node's disk."""
FUSE = "fuse-ext4"
"""Left out of random histories: within one mount already, fuse-overlayfs does not always make of a change what a
directory does (1.10: modes, times and second names of what it copies up)."""
_rooms = itertools.count()


def _soak(*grounds: str) -> list[str | ParameterSet]:
    """Leave these grounds of all to `make soak`. Each of them is in another test of `make test`."""
    return [pytest.param(each, marks=pytest.mark.soak) if each in grounds else each for each in [*GROUNDS, ON_NODE]]


@dataclass(frozen=True, slots=True)
class Ground:
    """A driver on a file system."""

    driver: str
    by_fuse: bool
    path: Path
    on_node: bool = False

    def room(self) -> Running:
        """An empty user's directory."""
        folder = self.path / f"room{next(_rooms)}"
        folder.mkdir()
        return Running.on(folder, self.driver, by_fuse=self.by_fuse, on_node=self.on_node)


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    driver, _, kind = request.param.partition("-")
    with mounted(kind, tmp_path_factory.mktemp("filesystem")) as found:
        name = {"fuse": "overlay", "node": "plain"}.get(driver, driver)
        yield Ground(name, driver == "fuse", found.path, driver == "node")


@pytest.mark.parametrize("ground", _soak("overlay-xfs", "overlay-btrfs", "reflink-btrfs"), indirect=True)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=1, deadline=None, phases=[Phase.generate])
def test_any_history_shows_what_plain_directories_show(ground: Ground, seed: int) -> None:
    _run_history(ground, seed)


@pytest.mark.soak
@pytest.mark.parametrize("ground", [*GROUNDS, ON_NODE], indirect=True)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None, phases=[Phase.generate])
def test_many_histories_show_what_plain_directories_show(ground: Ground, seed: int) -> None:
    _run_history(ground, seed)


def _run_history(ground: Ground, seed: int) -> None:
    history = History(ground.room(), seed)
    history.run(STEPS)
    remove_tree(history.running.base.parent)


@pytest.mark.parametrize(
    "ground", [*_soak("overlay-ext4", "overlay-xfs", "reflink-xfs", "plain-ext4", ON_NODE), FUSE], indirect=True
)
@pytest.mark.parametrize("size", ["", pytest.param("large", marks=pytest.mark.soak)], ids=["1000-files", "10000-files"])
def test_a_tree_that_has_everything_comes_through_whole(ground: Ground, size: str) -> None:
    running = ground.room()
    storage, session = running.storage, running.create()
    (running.base / "usr").mkdir()

    def made(what: str) -> dict[str, Tree]:
        shown = {kind: running.change(session, kind, what=f"{what} {size}") for kind in ("home", "system")}
        if running.by_fuse:  # it settles times of modification when it is unmounted
            return {kind: running.change(session, kind) for kind in shown}
        return shown

    first = made("everything")
    taken = operations.snapshot(storage, session, new_id(), IMAGE, SnapshotNote("everything"))["snapshot"]["number"]
    changed = made("turn-over")

    def shows(which: str, wanted: dict[str, Tree], *kinds: str) -> None:
        for kind in kinds or ("home", "system"):
            shown = running.change(which, kind)
            assert comparable(running, kind, shown) == comparable(running, kind, wanted[kind])

    assert operations.rollback(storage, session, new_id(), taken, IMAGE)["before"]["number"] == taken + 1
    shows(session, first)
    operations.rollback(storage, session, new_id(), taken + 1, IMAGE)
    shows(session, changed)
    copy = new_id()
    storage.session(copy).mkdir(mode=0o700)
    operations.clone(storage, copy, new_id(), source_id=session, number=taken, image=IMAGE)
    shows(copy, first)
    operations.switch(storage, session, new_id(), IMAGE, OTHER_IMAGE)
    shows(session, changed, "home")
    assert running.change(session, "system").keys() == {"usr"}
    operations.switch(storage, session, new_id(), OTHER_IMAGE, IMAGE)
    shows(session, changed)
    operations.flatten(storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    operations.flatten(storage, copy, new_id(), digest=IMAGE.digest, below=running.below)
    shows(session, changed)
    shows(copy, first)
    garbage.collect_garbage(storage)
    shows(session, changed)
    shows(copy, first)
    garbage.purge_session(storage, session)
    shows(copy, first)
    garbage.purge_session(storage, copy)
    assert storage.layers.all() == []
    remove_tree(running.base.parent)


def _access_list(owner: int) -> bytes:
    """A default access list that gives a further user, of this number, what it has: acl(5), as the kernel stores it."""
    none = 2**32 - 1
    entries = [(0x01, 7, none), (0x02, 5, owner), (0x04, 5, none), (0x10, 5, none), (0x20, 0, none)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


class Roots:
    """The roots of a session's volumes, which have attributes of their own."""

    def __init__(self, running: Running) -> None:
        self.running = running

    def change(self, session: str, number: int, *, only: bool = True) -> None:
        """Change nothing but the root, unless not `only`."""
        for path in self._tops(session):
            if not only:
                (path / f"file{number}").write_text("content")
            path.chmod(0o711 if number % 2 else 0o750)
            os.setxattr(path, "user.test", b"%d" % number)
            os.setxattr(path, "system.posix_acl_default", _access_list(number))
            os.utime(path, (number * 1000, number * 1000))

    def shown(self, session: str) -> list[tuple[int, bytes, bytes, float]]:
        return [
            (
                path.stat().st_mode,
                os.getxattr(path, "user.test"),
                os.getxattr(path, "system.posix_acl_default"),
                path.stat().st_mtime,
            )
            for path in self._tops(session)
        ]

    def _tops(self, session: str) -> list[Path]:
        found = self.running.record(session)
        return [self.running.storage.layers.tree(volume.top) for volume in (found.home, found.system)]


@pytest.mark.parametrize("only", [True, False], ids=["root-alone", "root-and-files"])
@pytest.mark.parametrize("ground", _soak("overlay-btrfs", "reflink-btrfs")[:-1], indirect=True)
def test_root_of_a_volume_keeps_its_attributes_through_everything(
    ground: Ground, only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ground.room()
    storage, session = running.storage, running.create()
    roots = Roots(running)
    roots.change(session, 1, only=only)
    first = roots.shown(session)
    taken = operations.snapshot(storage, session, new_id(), IMAGE, SnapshotNote())["snapshot"]["number"]
    assert roots.shown(session) == first
    roots.change(session, 2, only=only)
    second = roots.shown(session)
    before = operations.rollback(storage, session, new_id(), taken, IMAGE)["before"]["number"]
    assert roots.shown(session) == first
    operations.rollback(storage, session, new_id(), before, IMAGE)
    assert roots.shown(session) == second
    roots.change(session, 3, only=only)
    third = roots.shown(session)
    monkeypatch.setattr(live_snapshot, "_request_copy", copy_here)
    copied = live_snapshot.snapshot_running(storage, session, new_id(), job_id=1, image=IMAGE, note=SnapshotNote())[
        "snapshot"
    ]["number"]
    roots.change(session, 4, only=only)
    operations.rollback(storage, session, new_id(), copied, IMAGE)
    assert roots.shown(session) == third
    copy = new_id()
    storage.session(copy).mkdir(mode=0o700)
    operations.clone(storage, copy, new_id(), source_id=session, number=taken, image=IMAGE)
    assert roots.shown(copy) == first
    operations.flatten(storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    operations.snapshot(storage, session, new_id(), IMAGE, SnapshotNote())
    operations.prepare_handover(storage, session, 2, IMAGE, most=30)
    handover = running.record(session).handover
    if handover is not None:
        (storage.session(session) / "run/begun").write_text("2")
    assert roots.shown(session) == third
    operations.switch(storage, session, new_id(), IMAGE, OTHER_IMAGE)
    operations.switch(storage, session, new_id(), OTHER_IMAGE, IMAGE)
    assert roots.shown(session) == third
    remove_tree(running.base.parent)
