"""The user's own store of buildah: the layers of earlier builds, on a local disk.

What the first run in a store decides, such as how layers are mounted, counts for all later ones. So the store has
directories and settings of its own from its first run on, and no setting of the machine or of the user changes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.build import namespace
from profiles.build.workspace import free_bytes
from profiles.errors import ProfilesError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STORE_PREFIX = "berth-containers-"
WANTED_FREE_BYTES = 6 << 30
"""Free bytes below which the layers of earlier builds are removed before a build."""

_SETTINGS = """[storage]
driver = "overlay"
graphroot = "{graph}"
runroot = "{run}"
"""


@dataclass(frozen=True, slots=True)
class LayerStore:
    """A store of buildah in `folder`, which this user alone can open."""

    folder: Path

    @property
    def settings(self) -> Path:
        return self.folder / "storage.conf"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    @property
    def places(self) -> list[Path]:
        """The directories that buildah writes."""
        return [self.folder / "graph", self.folder / "run", self.temporary]

    def prepare(self) -> None:
        """Make the directories and settings. Raises OSError."""
        for place in self.places:
            place.mkdir(mode=0o700, exist_ok=True)
        self.settings.write_text(_SETTINGS.format(graph=self.folder / "graph", run=self.folder / "run"))

    def clear(self) -> None:
        """Remove all layers. Raises OSError."""
        for place in self.places:
            namespace.remove_as_root(place)


@contextlib.contextmanager
def layer_store(parent: Path, spare: Path) -> Iterator[LayerStore]:
    """Open the user's store below `parent` for the time of the block.

    While another build of the user has it open, this one has an empty store in `spare` instead, so that builds do not
    wait for each other. Raises ProfilesError if another user may change the store, and OSError.
    """
    folder = parent / f"{STORE_PREFIX}{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ProfilesError(
            f"{folder} is not a directory of yours that no other user can open",
            hint="remove it, or set TMPDIR to another directory on a local disk",
        )
    with (folder / "lock").open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = spare
            folder.mkdir(mode=0o700)
        store = LayerStore(folder)
        if folder != spare and free_bytes(folder) < WANTED_FREE_BYTES:
            store.clear()
        store.prepare()
        yield store
