"""A process that writes to a directory in every way that there is, at random moments, until it is killed.

`python writer.py ROOT SEED`: it says `writing` when its mappings are there.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

FILES, MAPPED, FOLDERS = 120, 24, 6
PAGES = 5
PAUSE_S = 0.002
"""The longest between two changes: a copy of some hundred files takes a few tenths of a second."""
PUNCH = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE: fallocate(2)."""


@dataclass(slots=True)
class Writer:
    root: Path
    random: random.Random
    mappings: dict[Path, mmap.mmap] = field(default_factory=dict)

    def fill(self) -> None:
        for number in range(FILES):
            path = self.root / f"d{number % FOLDERS}" / f"f{number}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(self.random.randbytes(PAGES * mmap.PAGESIZE))
            if number < MAPPED:
                self.map(path)

    def map(self, path: Path) -> None:
        """A mapping that outlives its descriptor, dirty from the beginning."""
        with path.open("r+b") as file:
            self.mappings[path] = mmap.mmap(file.fileno(), PAGES * mmap.PAGESIZE)
        self.store()

    def run(self) -> None:
        kinds = [
            self.store, self.store, self.store, self.store, self.write, self.write, self.direct, self.truncate,
            self.punch, self.allocate, self.rename, self.link, self.remove, self.make, self.mode, self.attribute,
            self.replace, self.remap, self.child,
        ]  # fmt: skip
        while True:
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                self.random.choice(kinds)()
            time.sleep(self.random.random() * PAUSE_S)

    def pick(self) -> Path:
        """Some file, seldom one of those that are mapped."""
        paths = sorted(
            path for path in self.root.rglob("f*") if path not in self.mappings or self.random.random() < 0.1
        )
        return self.random.choice(paths)

    def page(self) -> int:
        return self.random.randrange(PAGES) * mmap.PAGESIZE

    def store(self) -> None:
        """Into all mappings: their pages are dirty already unless the kernel has written them out."""
        for mapped in self.mappings.values():
            at = self.page()
            with contextlib.suppress(ValueError):
                mapped[at : at + 8] = self.random.randbytes(8)

    def child(self) -> None:
        """A store of a process that ends after it."""
        mapped, at, value = self.random.choice([*self.mappings.values()]), self.page(), self.random.randbytes(8)
        child = os.fork()
        if child == 0:
            mapped[at : at + 8] = value
            os._exit(0)
        os.waitpid(child, 0)

    def remap(self) -> None:
        path = self.random.choice([*self.mappings])
        self.mappings.pop(path).close()
        self.map(self.make())

    def write(self) -> None:
        """In place, and with the former time of modification."""
        path = self.pick()
        before = path.stat()
        with path.open("r+b") as file:
            file.seek(self.page())
            file.write(self.random.randbytes(100))
        if self.random.random() < 0.5:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def direct(self) -> None:
        fd = os.open(self.pick(), os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, mmap.PAGESIZE) as aligned:
            aligned[:] = self.random.randbytes(mmap.PAGESIZE)
            os.pwrite(fd, aligned, self.page())
        os.close(fd)

    def truncate(self) -> None:
        """Truncate to less and to the former size again: the rest is a hole."""
        path = self.pick()
        if path not in self.mappings:
            os.truncate(path, self.page())
            os.truncate(path, PAGES * mmap.PAGESIZE)

    def punch(self) -> None:
        with self.pick().open("r+b") as file:
            begin, length = ctypes.c_int64(self.page()), ctypes.c_int64(mmap.PAGESIZE)
            ctypes.CDLL(None).fallocate(file.fileno(), PUNCH, begin, length)

    def allocate(self) -> None:
        with self.pick().open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, (PAGES + self.random.randrange(3)) * mmap.PAGESIZE)

    def fresh(self) -> Path:
        return self.root / f"d{self.random.randrange(FOLDERS)}" / f"f{self.random.randrange(2 * FILES)}"

    def make(self) -> Path:
        path = self.fresh()
        with path.open("xb") as file:
            file.write(self.random.randbytes(PAGES * mmap.PAGESIZE))
        return path

    def rename(self) -> None:
        path, target = self.pick(), self.fresh()
        if target not in self.mappings:
            path.rename(target)
        if path in self.mappings:
            self.mappings[target] = self.mappings.pop(path)

    def link(self) -> None:
        self.fresh().hardlink_to(self.pick())

    def remove(self) -> None:
        path = self.pick()
        if path not in self.mappings and len(list(self.root.rglob("f*"))) > FILES // 2:
            path.unlink()

    def mode(self) -> None:
        self.pick().chmod(self.random.choice([0o600, 0o640, 0o755]))

    def attribute(self) -> None:
        os.setxattr(self.pick(), "user.test", self.random.randbytes(10))

    def replace(self) -> None:
        """Replace the file as an editor does."""
        path = self.pick()
        beside = path.with_name(".beside")
        beside.write_bytes(self.random.randbytes(PAGES * mmap.PAGESIZE))
        beside.rename(path)
        self.mappings.pop(path, None)


def _store_on(mappings: dict[Path, mmap.mmap], seed: int) -> None:
    """A second thread, which does nothing but store: as fast as it can."""
    source = random.Random(seed)  # noqa: S311 - a failure has to come again
    while True:
        for mapped in list(mappings.values()):
            with contextlib.suppress(ValueError):  # closed meanwhile
                mapped[source.randrange(PAGES) * mmap.PAGESIZE + 100] = source.randrange(256)
        time.sleep(0.0005)


def main() -> None:
    seed = int(sys.argv[2])
    writer = Writer(Path(sys.argv[1]), random.Random(seed))  # noqa: S311 - as above
    writer.fill()
    threading.Thread(target=_store_on, args=(writer.mappings, seed), daemon=True).start()
    print("writing", flush=True)
    writer.run()


if __name__ == "__main__":
    main()
