"""Volumes as a session's job has them mounted, without a job: for tests of what the engine makes of them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from broker.names import new_id
from broker.volumes import operations, record, saves
from broker.volumes.layers import copy_root_attributes
from broker.volumes.operations import ImageVersion
from broker.volumes.squashfs import unpack_layer
from broker.volumes.storage import Storage
from profiles.removal import remove_tree
from tests.deadlines import TEST_DEADLINE_S
from tests.volumes import changes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from broker.volumes.record import Record
    from tests.volumes.changes import Tree

SCRIPT = Path(changes.__file__)
IMAGE = ImageVersion("base", "1", "sha256:" + "1" * 64)
OTHER_IMAGE = ImageVersion("other", "2", "sha256:" + "2" * 64)
MOUNT = "LIBMOUNT_FORCE_MOUNT2=always mount -t overlay overlay"  # as session.sh: fsconfig(2) takes 256 bytes an option
KERNEL = MOUNT + " -o userxattr,lowerdir={lower},upperdir={top}/tree,workdir={top}/work {merged}"
FUSE = "fuse-overlayfs -o lowerdir={lower},upperdir={top}/tree,workdir={top}/work {merged}"


@dataclass(frozen=True, slots=True)
class Running:
    """Sessions of one user on one file system."""

    storage: Storage
    base: Path
    """The tree below a system volume, as an image's squashfs has one."""
    driver: str
    by_fuse: bool = False
    on_node: bool = False
    """Whether jobs have the top of the system volume on their nodes' disks."""
    submissions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    def on(
        cls, folder: Path, driver: str, *, by_fuse: bool = False, on_node: bool = False, node: Path | None = None
    ) -> Running:
        """Make the storage of a user in `folder`, and what nodes have in `node`, by default in the same folder."""
        storage = Storage(folder / "user")
        storage.root.mkdir(mode=0o700)
        storage.make()
        local = node or folder
        for name in ("image", "empty", "merged"):
            (local / name).mkdir()
        return cls(storage, local / "image", driver, by_fuse, on_node)

    def model(self, kind: str) -> Path:
        """The directory for plain directories: on the file system that a volume's files are on while a job runs."""
        return (self.base.parent if kind == "system" and self.on_node else self.storage.root.parent) / "model"

    def exact(self, kind: str) -> bool:
        """Whether hard links stay together whatever is written to them: a system volume is always an overlay."""
        return self.driver != "overlay" and kind == "home"

    def below(self, path: str) -> bool:
        """Whether what lies under the system volume has a path."""
        return os.path.lexists(self.base / path)

    def create(self) -> str:
        session = new_id()
        self.storage.session(session).mkdir(mode=0o700)
        operations.create_volumes(self.storage, session, self.driver)
        if self.on_node:
            directory = self.storage.session(session)
            record.commit_record(directory, replace(record.load_record(directory), on_node=True))
        return session

    def record(self, session: str) -> Record:
        return record.load_record(self.storage.session(session))

    def change(self, session: str, kind: str, seed: int = 0, count: int = 0, what: str = "") -> Tree:
        """Mount a volume, change it at random or as `what` says, and tell what it then is."""
        volume = getattr(self.record(session), kind)
        layers = self.storage.layers
        merged = self.base.parent / "merged"
        if kind == "home" and self.driver != "overlay":
            return self._run("true", layers.tree(volume.top), kind, seed, count=count, what=what)
        if kind == "system" and self.on_node:
            return self._change_on_node(session, seed, count, what)
        below = self.base if kind == "system" else self.base.parent / "empty"
        lower = [str(layers.tree(layer)) for layer in reversed(volume.layers)]
        if self.by_fuse:
            (layers.path(volume.top) / "fuse").touch()
        how = FUSE if self.by_fuse else KERNEL
        mount = how.format(lower=":".join([*lower, str(below)]), top=layers.path(volume.top), merged=merged)
        return self._run(mount, merged, kind, seed, count=count, what=what)

    def begin_job(self, session: str) -> tuple[Path, tuple[int, int]]:
        """Be a job that begins: the system's top on the shared file system, and the job's generation."""
        top, generation = self.storage.layers.path(self.record(session).system.top), (next(self.submissions), 0)
        claimed = saves.claim_top(top, generation)
        system = self.record(session).system
        assert (system.below, system.own) == (claimed.below, claimed.own)
        return top, generation

    def empty_top(self, session: str, node: Path) -> Path:
        """Make the top that a job has on its node's disk; its directory."""
        layers, system = self.storage.layers, self.record(session).system
        made = node / "top"
        (made / "work").mkdir(parents=True)
        if system.own:
            unpack_layer(layers.squashfs(system.own), made / "tree")
        else:
            (made / "tree").mkdir()
        copy_root_attributes(layers.tree(system.saved[-1] if system.saved else system.top), made / "tree")
        return made

    def _change_on_node(self, session: str, seed: int, count: int, what: str) -> Tree:
        """Run one job: it mounts the save, changes something, and saves that, as session.sh does."""
        top, generation = self.begin_job(session)
        layers, system = self.storage.layers, self.record(session).system
        node = Path(tempfile.mkdtemp(prefix="node-", dir=self.base.parent))
        try:
            made = self.empty_top(session, node)
            lower = []
            for layer in reversed((*system.layers, *system.below)):
                lower.append(layers.tree(layer))
                if layers.squashfs(layer).exists():
                    lower[-1] = node / layer
                    unpack_layer(layers.squashfs(layer), lower[-1])
            stack = ":".join(map(str, [*lower, self.base]))
            mount = KERNEL.format(lower=stack, top=made, merged=self.base.parent / "merged")
            shown = self._run(mount, self.base.parent / "merged", "system", seed, count=count, what=what)
            if any((made / "tree").iterdir()):
                saves.save_changes(top, generation, made)
            return shown
        finally:
            remove_tree(node)

    def plain(self, folder: Path, kind: str, seed: int, count: int) -> Tree:
        """The same changes of a plain directory."""
        return self._run("true", folder, kind, seed, count=count)

    def _run(self, mount: str, folder: Path, kind: str, seed: int, *, count: int, what: str = "") -> Tree:
        """Make the changes and return what the tree is then. fuse-overlayfs lists names that are gone until it is
        mounted again (1.10), so it is looked at in a second mount.
        """
        if self.by_fuse and mount != "true" and (count or what):
            self._program(mount, folder, kind, seed, count=count, what=f"{what} unseen")
            count, what = 0, ""
        found: Tree = json.loads(self._program(mount, folder, kind, seed, count=count, what=what))
        return found

    def _program(self, mount: str, folder: Path, kind: str, seed: int, *, count: int, what: str) -> bytes:
        flags = f"{what} {'' if self.exact(kind) else 'links'} {'fuse' if self.by_fuse else ''}"
        words = [str(folder), str(seed), str(count), flags]
        unmount = f"! mountpoint -q {folder} || umount {folder}"  # or fuse-overlayfs lives on
        script = f'{mount}; trap "cd /; {unmount}" EXIT; "$@"'
        command = ["unshare", "--map-root-user", "--mount", "sh", "-euc", script, "sh"]
        done = subprocess.run(
            [*command, sys.executable, "-I", str(SCRIPT), *words],
            capture_output=True,
            timeout=TEST_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout
