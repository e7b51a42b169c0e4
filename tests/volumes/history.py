"""Random histories of sessions' volumes, and the plain directories that the volumes must equal afterwards.

`python -m tests.volumes.history DRIVER FOLDER NODE SEED…` runs one history for each seed in FOLDER, on the file system
that the folder is on and as the user who calls it. NODE is a directory on the node's disk for jobs that have the system
volume's top there, or empty. It needs Berth and the standard library only.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from broker.names import new_id
from broker.volumes import garbage, live_snapshot, operations, saves
from broker.volumes.live_copy import TreeCopy
from broker.volumes.live_snapshot import CopyOutcome
from broker.volumes.operations import SnapshotNote
from profiles.removal import remove_tree
from tests.volumes.running import IMAGE, OTHER_IMAGE, Running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.storage import SessionVolumes
    from tests.volumes.changes import Tree

KINDS = ("home", "system")
STEPS = 14
"""Operations of one history."""
MOST_SHOWN = 5
"""Paths that a failure names."""


@dataclass(slots=True)
class Model:
    """Plain directories beside the sessions: one for each volume now, and a copy for each snapshot."""

    running: Running
    copies: Iterator[int] = field(default_factory=itertools.count)
    now: dict[tuple[str, str], Path] = field(default_factory=dict)
    snapshots: dict[tuple[str, int], dict[str, Path]] = field(default_factory=dict)
    images: dict[tuple[str, int], operations.ImageVersion] = field(default_factory=dict)
    image: dict[str, operations.ImageVersion] = field(default_factory=dict)

    def copy(self, kind: str, source: Path) -> Path:
        target = self.running.model(kind) / str(next(self.copies))
        target.parent.mkdir(exist_ok=True)
        subprocess.run(["cp", "-a", "--", source, target], check=True)
        return target

    def add(self, session: str, home: Path, system: Path, image: operations.ImageVersion = IMAGE) -> None:
        for kind, source in (("home", home), ("system", system)):
            self.now[session, kind] = self.copy(kind, source)
        self.image[session] = image

    def keep(self, session: str, number: int) -> None:
        self.snapshots[session, number] = {kind: self.copy(kind, self.now[session, kind]) for kind in KINDS}
        self.images[session, number] = self.image[session]

    def back(self, session: str, number: int) -> None:
        for kind, copy in self.snapshots[session, number].items():
            self.now[session, kind] = self.copy(kind, copy)
        self.image[session] = self.images[session, number]


def comparable(running: Running, kind: str, tree: Tree) -> Tree:
    """Return the parts of a tree that must be equal: not the times of folders, which any change sets.

    The driver's promises decide about the rest.
    """
    left_out = {"folder time"} | (set() if running.exact(kind) else {"names"})
    shown = {}
    for path, entry in tree.items():
        forgotten = {"time"} if running.by_fuse and "target" in entry else set()  # of links that it copies up
        shown[path] = {name: value for name, value in entry.items() if name not in left_out | forgotten}
        packed = running.driver == "plain" or (running.on_node and kind == "system")
        if packed and "time" in entry:
            shown[path]["time"] //= 10**9
    return shown


class History:
    """Random operations on sessions, and the same on their model."""

    def __init__(self, running: Running, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a failure has to come again
        self.running = running
        self.model = Model(self.running)
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
        for kind in KINDS:
            self.running.change(session, kind, seed, 25)
            self.running.plain(self.model.now[session, kind], kind, seed, 25)
        self.check(session)

    def check(self, session: str) -> None:
        for kind in KINDS:
            shown = self.running.change(session, kind)
            wanted = self.running.plain(self.model.now[session, kind], kind, 0, 0)
            found, expected = (comparable(self.running, kind, tree) for tree in (shown, wanted))
            other = [path for path in sorted(found | expected) if found.get(path) != expected.get(path)]
            assert not other, [(kind, path, found.get(path), expected.get(path)) for path in other[:MOST_SHOWN]]

    def snapshot(self) -> None:
        session = self.session()
        answer = operations.snapshot(self.running.storage, session, new_id(), self.model.image[session], SnapshotNote())
        self.model.keep(session, answer["snapshot"]["number"])

    def copy_alive(self) -> None:
        """A snapshot as of a running session; the job's part is done here."""
        session = self.session()
        if self.running.on_node:
            self.job = self.running.begin_job(session)
        with mock.patch.object(
            live_snapshot, "_request_copy", self._copy_on_node if self.running.on_node else copy_here
        ):
            answer = live_snapshot.snapshot_running(
                self.running.storage, session, new_id(), job_id=1, image=self.model.image[session], note=SnapshotNote()
            )
        self.model.keep(session, answer["snapshot"]["number"])

    def _copy_on_node(self, session: SessionVolumes, job_id: int, *, home: str, system: str) -> CopyOutcome:
        """The same where the job has not changed the system that it has on its node."""
        node = self.running.base.parent / "node"
        saves.save_copy(*self.job, self.running.empty_top(session.id, node), system)
        remove_tree(node)
        return copy_here(session, job_id, home=home, system="")

    def hand_over(self) -> None:
        """From one job to the next, which begins at once, later, or never."""
        session = self.session()
        submission, directory = next(self.submissions), self.running.storage.session(session)
        image = self.model.image[session]
        operations.prepare_handover(self.running.storage, session, submission, image, most=30)
        if self.random.random() < 0.3:
            return
        if self.random.random() < 0.5:
            self.copy_alive()
        for kind in KINDS:
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
        self.model.now[session, "system"] = self.model.copy("system", system)
        self.model.image[session] = target
        self.check(session)

    def _stack(self, session: str, number: int) -> tuple[str, ...]:
        return self.running.record(session).snapshot(number).system

    def flatten(self) -> None:
        session = self.session()
        before = {kind: self.running.change(session, kind) for kind in KINDS}
        operations.flatten(
            self.running.storage, session, new_id(), digest=self.model.image[session].digest, below=self.running.below
        )
        # Bit for bit, the times of folders too: joining must not be seen.
        for kind, shown in before.items():
            assert without_links(self.running.change(session, kind)) == without_links(shown)

    def forget(self) -> None:
        session = self.session()
        numbers = [number for name, number in self.model.snapshots if name == session]
        if numbers and self.random.random() < 0.3:
            number = self.random.choice(numbers)
            operations.delete_snapshot(self.running.storage, session, number)
            del self.model.snapshots[session, number]
            del self.model.images[session, number]

    def collect(self) -> None:
        planned = garbage.collect_garbage(self.running.storage, dry_run=True)
        removed = garbage.collect_garbage(self.running.storage)
        assert planned == removed
        assert garbage.collect_garbage(self.running.storage)["layers"] == []


def copy_here(session: SessionVolumes, job_id: int, *, home: str, system: str) -> CopyOutcome:
    """Copy tops that nothing writes to, as session.sh and copying.pyz do together on the node."""
    del job_id
    layers = session.storage.layers
    for volume, layer in ((session.record.home, home), (session.record.system, system)):
        if layer:
            previous = str(layers.path(volume.copied)) if volume.copied else ""
            copy = TreeCopy(str(layers.tree(volume.top)), str(layers.path(layer)), previous)
            copy.first_pass()
            copy.second_pass()
            copy.complete()
            copy.close()
    return CopyOutcome("frozen", 0.0)


def without_links(tree: Tree) -> Tree:
    return {path: {k: v for k, v in entry.items() if k != "names"} for path, entry in tree.items()}


def main() -> None:
    driver, folder, disk = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    for seed in map(int, sys.argv[4:]):
        room = folder / f"seed{seed}"
        room.mkdir(parents=True)
        print(f"seed {seed}", flush=True)
        node = Path(tempfile.mkdtemp(prefix="node-", dir=disk)) if disk else None
        history = History(Running.on(room, driver, on_node=node is not None, node=node), seed)
        history.run(STEPS)
        print(f"seed {seed}: {len(history.sessions)} sessions, {len(history.model.snapshots)} snapshots", flush=True)
        remove_tree(room)
        if node is not None:
            remove_tree(node)


if __name__ == "__main__":
    os.umask(0o077)
    main()
