"""Volumes as a session's job has them mounted, without a job: for tests of what the engine makes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from broker.identifiers import new_id
from broker.volumes import operations, record
from broker.volumes.operations import Image
from broker.volumes.storage import Storage
from tests.deadlines import TEST_DEADLINE_S
from tests.volumes import changes

if TYPE_CHECKING:
    from broker.volumes.record import Record
    from tests.volumes.changes import Tree

SCRIPT = Path(changes.__file__)
IMAGE = Image("base", "1", "sha256:" + "1" * 64)
OTHER_IMAGE = Image("other", "2", "sha256:" + "2" * 64)
KERNEL = "mount -t overlay overlay -o userxattr,lowerdir={lower},upperdir={top}/tree,workdir={top}/work {merged}"
FUSE = "fuse-overlayfs -o lowerdir={lower},upperdir={top}/tree,workdir={top}/work {merged}"


@dataclass(frozen=True, slots=True)
class Running:
    """Sessions of one user on one file system."""

    storage: Storage
    base: Path
    """What lies under a system volume, as an image's squashfs does."""
    driver: str
    by_fuse: bool = False

    @classmethod
    def on(cls, folder: Path, driver: str, *, by_fuse: bool = False) -> Running:
        storage = Storage(folder / "user")
        storage.root.mkdir(mode=0o700)
        storage.make()
        for name in ("image", "empty", "merged"):
            (folder / name).mkdir()
        return cls(storage, folder / "image", driver, by_fuse)

    def exact(self, kind: str) -> bool:
        """Whether hard links stay together whatever is written to them: a system volume is always an overlay."""
        return self.driver != "overlay" and kind == "home"

    def below(self, path: str) -> bool:
        """Whether what lies under the system volume has a path."""
        return os.path.lexists(self.base / path)

    def create(self) -> str:
        session = new_id()
        self.storage.session(session).mkdir(mode=0o700)
        operations.create(self.storage, session, self.driver)
        return session

    def record(self, session: str) -> Record:
        return record.load(self.storage.session(session))

    def change(self, session: str, kind: str, seed: int = 0, count: int = 0, what: str = "") -> Tree:
        """Mount a volume, change it at random or as `what` says, and tell what it then is."""
        volume = getattr(self.record(session), kind)
        layers = self.storage.layers
        merged = self.base.parent / "merged"
        if kind == "home" and self.driver != "overlay":
            return self._run("true", layers.tree(volume.top), kind, seed, count=count, what=what)
        below = self.base if kind == "system" else self.base.parent / "empty"
        lower = [str(layers.tree(layer)) for layer in reversed(volume.layers)]
        if self.by_fuse:
            (layers.path(volume.top) / "fuse").touch()
        how = FUSE if self.by_fuse else KERNEL
        mount = how.format(lower=":".join([*lower, str(below)]), top=layers.path(volume.top), merged=merged)
        return self._run(mount, merged, kind, seed, count=count, what=what)

    def plain(self, folder: Path, kind: str, seed: int, count: int) -> Tree:
        """The same changes of a plain directory."""
        return self._run("true", folder, kind, seed, count=count)

    def _run(self, mount: str, folder: Path, kind: str, seed: int, *, count: int, what: str = "") -> Tree:
        """Make the changes and return what the tree is then. fuse-overlayfs lists names that are gone until it is
        mounted anew (1.10), so it is looked at in a second mount.
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
