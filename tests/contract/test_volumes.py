"""One suite over all drivers, each on a file system that it is made for: whatever happens to a session's volumes, they
show what a plain directory would show to which the same had happened.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from broker.identifiers import new_id
from broker.volumes import collection, live, operations, saves
from broker.volumes.copying import Copy
from broker.volumes.live import Outcome
from broker.volumes.operations import Note
from profiles.removal import remove_tree
from tests.volumes.filesystems import mounted
from tests.volumes.running import IMAGE, OTHER_IMAGE, Running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from broker.volumes.storage import Session
    from tests.volumes.changes import Tree

GROUNDS = ["overlay-ext4", "overlay-xfs", "overlay-btrfs", "reflink-xfs", "reflink-btrfs", "plain-ext4"]
ON_NODE = "node-ext4"
"""The driver `plain`, with the system volume's top on the node's disk."""
FUSE = "fuse-ext4"
"""Left out of random histories: within one mount already, fuse-overlayfs does not always make of a change what a
directory does (1.10: modes, times and second names of what it copies up)."""
_rooms = itertools.count()


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


@dataclass(slots=True)
class Model:
    """Plain directories beside the sessions: one for each volume now, and a copy for each snapshot."""

    running: Running
    folder: Path
    copies: Iterator[int] = field(default_factory=itertools.count)
    now: dict[tuple[str, str], Path] = field(default_factory=dict)
    snapshots: dict[tuple[str, int], dict[str, Path]] = field(default_factory=dict)
    images: dict[tuple[str, int], operations.Image] = field(default_factory=dict)
    image: dict[str, operations.Image] = field(default_factory=dict)

    def copy(self, source: Path) -> Path:
        target = self.folder / str(next(self.copies))
        subprocess.run(["cp", "-a", "--", source, target], check=True)
        return target

    def add(self, session: str, home: Path, system: Path, image: operations.Image = IMAGE) -> None:
        self.now[session, "home"], self.now[session, "system"] = self.copy(home), self.copy(system)
        self.image[session] = image

    def keep(self, session: str, number: int) -> None:
        self.snapshots[session, number] = {kind: self.copy(self.now[session, kind]) for kind in ("home", "system")}
        self.images[session, number] = self.image[session]

    def back(self, session: str, number: int) -> None:
        for kind, copy in self.snapshots[session, number].items():
            self.now[session, kind] = self.copy(copy)
        self.image[session] = self.images[session, number]


def comparable(running: Running, kind: str, tree: Tree) -> Tree:
    """What has to be equal: not the times of folders, which any change sets; the rest as the driver promises."""
    left_out = {"folder time"} | (set() if running.exact(kind) else {"names"})
    shown = {}
    for path, entry in tree.items():
        forgotten = {"time"} if running.by_fuse and "target" in entry else set()  # of links that it copies up
        shown[path] = {name: value for name, value in entry.items() if name not in left_out | forgotten}
        if running.driver == "plain" and "time" in entry:
            shown[path]["time"] //= 10**9
    return shown


class History:
    """Random things that happen to sessions, and to their model."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a failure has to come again
        self.running = ground.room()
        self.model = Model(self.running, self.running.base.parent / "model")
        self.model.folder.mkdir()
        empty = self.running.base.parent / "empty"
        self.running.plain(self.running.base, "system", seed, 40)
        self.sessions = [self.running.create()]
        self.submissions = itertools.count(2)
        self.model.add(self.sessions[0], empty, self.running.base)

    def run(self, steps: int) -> None:
        kinds = [self.work, self.work, self.work, self.snapshot, self.rollback, self.clone, self.switch, self.flatten]
        kinds += [self.copy_alive, self.forget, self.hand_over]
        self.work()
        for _ in range(steps):
            self.random.choice(kinds)()
        for session in self.sessions:
            self.check(session)
        self.collect()
        for session in self.sessions:
            self.check(session)

    def session(self) -> str:
        return self.random.choice(self.sessions)

    def work(self) -> None:
        session, seed = self.session(), self.random.randrange(10**6)
        for kind in ("home", "system"):
            self.running.change(session, kind, seed, 25)
            self.running.plain(self.model.now[session, kind], kind, seed, 25)
        self.check(session)

    def check(self, session: str) -> None:
        for kind in ("home", "system"):
            shown = self.running.change(session, kind)
            wanted = self.running.plain(self.model.now[session, kind], kind, 0, 0)
            assert comparable(self.running, kind, shown) == comparable(self.running, kind, wanted)

    def snapshot(self) -> None:
        session = self.session()
        answer = operations.snapshot(self.running.storage, session, new_id(), self.model.image[session], Note())
        self.model.keep(session, answer["snapshot"]["number"])

    def copy_alive(self) -> None:
        """A snapshot as of a running session; the job's part is done here."""
        session = self.session()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(live, "_copied_by_job", self._copied_on_node if self.running.on_node else _copied_here)
            if self.running.on_node:
                self.job = self.running.begin_job(session)
            answer = live.copy(
                self.running.storage, session, new_id(), job_id=1, image=self.model.image[session], note=Note()
            )
        self.model.keep(session, answer["snapshot"]["number"])

    def _copied_on_node(self, session: Session, job_id: int, *, home: str, system: str) -> Outcome:
        """The same where the job has not changed the system that it has on its node."""
        node = self.running.base.parent / "node"
        saves.save_copy(*self.job, self.running.empty_top(session.id, node), system)
        remove_tree(node)
        return _copied_here(session, job_id, home=home, system="")

    def hand_over(self) -> None:
        """From one job to the next, which begins at once, later, or never."""
        session = self.session()
        submission, directory = next(self.submissions), self.running.storage.session(session)
        image = self.model.image[session]
        operations.hand_over(self.running.storage, session, submission, image, most=30)
        if self.random.random() < 0.3:
            return
        if self.random.random() < 0.5:
            self.copy_alive()
        for kind in ("home", "system"):
            self.running.change(session, kind, submission, 10)
            self.running.plain(self.model.now[session, kind], kind, submission, 10)
        asked = self.running.record(session)
        if asked.handover is not None:  # what session.sh does
            for old, new in ((asked.home, asked.handover.home), (asked.system, asked.handover.system)):
                shutil.copystat(self.running.storage.layers.tree(old.top), self.running.storage.layers.tree(new))
            (directory / "run").mkdir(exist_ok=True)
            (directory / "run/begun").write_text(str(submission))
            self.model.keep(session, self.running.record(session).last_number)
        self.check(session)

    def rollback(self) -> None:
        session = self.session()
        numbers = [number for name, number in self.model.snapshots if name == session]
        if not numbers:
            return
        number = self.random.choice(numbers)
        answer = operations.rollback(self.running.storage, session, new_id(), number, self.model.image[session])
        self.model.keep(session, answer["before"]["number"])
        self.model.back(session, number)
        self.check(session)

    def clone(self) -> None:
        source, new = self.session(), new_id()
        self.running.storage.session(new).mkdir(mode=0o700)
        answer = operations.clone(
            self.running.storage, new, new_id(), source_id=source, number=None, image=self.model.image[source]
        )
        self.model.keep(source, answer["snapshot"]["number"])
        kept = self.model.snapshots[source, answer["snapshot"]["number"]]
        self.model.add(new, kept["home"], kept["system"], self.model.image[source])
        self.sessions.append(new)
        self.check(new)

    def switch(self) -> None:
        session = self.session()
        image = self.model.image[session]
        target = OTHER_IMAGE if image == IMAGE else IMAGE
        answer = operations.switch(self.running.storage, session, new_id(), image, target)
        self.model.keep(session, answer["before"]["number"])
        been = [number for (name, number), at in self.model.images.items() if name == session and at == target]
        assert answer["system"] == ("kept" if been and self._stack(session, max(been)) else "fresh")
        system = self.model.snapshots[session, max(been)]["system"] if been else self.running.base
        self.model.now[session, "system"] = self.model.copy(system)
        self.model.image[session] = target
        self.check(session)

    def _stack(self, session: str, number: int) -> tuple[str, ...]:
        return self.running.record(session).snapshot(number).system

    def flatten(self) -> None:
        session = self.session()
        before = {kind: self.running.change(session, kind) for kind in ("home", "system")}
        operations.flatten(
            self.running.storage, session, new_id(), digest=self.model.image[session].digest, below=self.running.below
        )
        # Bit for bit, the times of folders too: joining must not be seen.
        for kind, shown in before.items():
            assert _without_links(self.running.change(session, kind)) == _without_links(shown)

    def forget(self) -> None:
        session = self.session()
        numbers = [number for name, number in self.model.snapshots if name == session]
        if numbers and self.random.random() < 0.3:
            number = self.random.choice(numbers)
            operations.forget(self.running.storage, session, number)
            del self.model.snapshots[session, number]
            del self.model.images[session, number]

    def collect(self) -> None:
        planned = collection.collect(self.running.storage, dry_run=True)
        removed = collection.collect(self.running.storage)
        assert planned == removed
        assert collection.collect(self.running.storage)["layers"] == []


def _copied_here(session: Session, job_id: int, *, home: str, system: str) -> Outcome:
    """What session.sh and copying.pyz do together on the node, for tops that nothing writes to."""
    del job_id
    layers = session.storage.layers
    for volume, layer in ((session.record.home, home), (session.record.system, system)):
        if layer:
            previous = str(layers.path(volume.copied)) if volume.copied else ""
            copy = Copy(str(layers.tree(volume.top)), str(layers.path(layer)), previous)
            copy.first()
            copy.second()
            copy.complete()
            copy.close()
    return Outcome("frozen", 0.0)


def _without_links(tree: Tree) -> Tree:
    return {path: {k: v for k, v in entry.items() if k != "names"} for path, entry in tree.items()}


@pytest.mark.parametrize("ground", [*GROUNDS, ON_NODE], indirect=True)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=2, deadline=None, phases=[Phase.generate])
def test_any_history_shows_what_plain_directories_show(ground: Ground, seed: int) -> None:
    history = History(ground, seed)
    history.run(14)
    remove_tree(history.running.base.parent)


@pytest.mark.parametrize("ground", [*GROUNDS, ON_NODE, FUSE], indirect=True)
def test_a_tree_that_has_everything_comes_through_whole(ground: Ground) -> None:
    running = ground.room()
    storage, session = running.storage, running.create()
    (running.base / "usr").mkdir()

    def made(what: str) -> dict[str, Tree]:
        shown = {kind: running.change(session, kind, what=what) for kind in ("home", "system")}
        if running.by_fuse:  # it settles times of modification when it is unmounted
            return {kind: running.change(session, kind) for kind in shown}
        return shown

    first = made("everything")
    taken = operations.snapshot(storage, session, new_id(), IMAGE, Note("everything"))["snapshot"]["number"]
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
    collection.collect(storage)
    shows(session, changed)
    shows(copy, first)
    collection.purge(storage, session)
    shows(copy, first)
    collection.purge(storage, copy)
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
@pytest.mark.parametrize("ground", GROUNDS, indirect=True)
def test_root_of_a_volume_keeps_its_attributes_through_everything(
    ground: Ground, only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = ground.room()
    storage, session = running.storage, running.create()
    roots = Roots(running)
    roots.change(session, 1, only=only)
    first = roots.shown(session)
    taken = operations.snapshot(storage, session, new_id(), IMAGE, Note())["snapshot"]["number"]
    assert roots.shown(session) == first
    roots.change(session, 2, only=only)
    second = roots.shown(session)
    before = operations.rollback(storage, session, new_id(), taken, IMAGE)["before"]["number"]
    assert roots.shown(session) == first
    operations.rollback(storage, session, new_id(), before, IMAGE)
    assert roots.shown(session) == second
    roots.change(session, 3, only=only)
    third = roots.shown(session)
    monkeypatch.setattr(live, "_copied_by_job", _copied_here)
    copied = live.copy(storage, session, new_id(), job_id=1, image=IMAGE, note=Note())["snapshot"]["number"]
    roots.change(session, 4, only=only)
    operations.rollback(storage, session, new_id(), copied, IMAGE)
    assert roots.shown(session) == third
    copy = new_id()
    storage.session(copy).mkdir(mode=0o700)
    operations.clone(storage, copy, new_id(), source_id=session, number=taken, image=IMAGE)
    assert roots.shown(copy) == first
    operations.flatten(storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    operations.snapshot(storage, session, new_id(), IMAGE, Note())
    operations.hand_over(storage, session, 2, IMAGE, most=30)
    handover = running.record(session).handover
    if handover is not None:
        (storage.session(session) / "run/begun").write_text("2")
    assert roots.shown(session) == third
    operations.switch(storage, session, new_id(), IMAGE, OTHER_IMAGE)
    operations.switch(storage, session, new_id(), OTHER_IMAGE, IMAGE)
    assert roots.shown(session) == third
    remove_tree(running.base.parent)
