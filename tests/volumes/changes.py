"""Random changes of a tree, of every kind that people make, and what a tree is afterwards.

Runs by itself inside a mount namespace too, so: the standard library only. The same seed makes the same changes of
two trees that are equal, whatever lies below them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

NAMES = ["a", "b", "c", "src", "größe", "two words", "-dash", "new\nline", "\udcff\udcfe", ".hidden", "x" * 200, "☃"]
MARK = ".wh.a"
"""A name like others to all but fuse-overlayfs, which cannot have it."""
EPOCH = 1_700_000_000
SPARSE = 3 * 2**20

Tree = dict[str, dict[str, Any]]
"""The properties of each path."""


class Changer:
    """Changes the tree at `root`.

    `break_links`: a file with several names is replaced instead of written to. `by_fuse`: no MARK, no second
    names, which fuse-overlayfs does not tell of, and no FIFOs, which become files when it copies them up. No link to
    itself: a directory that takes its place cannot be read, nor its parent (fuse-overlayfs 1.10, ENOMEM). A change that
    fails is left undone, or half done: after some histories fuse-overlayfs refuses to rename links (ELOOP), to remove
    or to make folders (ENOTEMPTY, EEXIST), or lists a name that it does not find (ENOENT).
    """

    def __init__(self, root: Path, seed: int, *, break_links: bool, by_fuse: bool) -> None:
        self.root = root
        self.by_fuse = by_fuse
        self.names = NAMES if by_fuse else [*NAMES, MARK]
        self.random = random.Random(seed)  # noqa: S311 - it has to be the same each time
        self.break_links = break_links
        self.time = EPOCH + seed % 10_000

    def run(self, count: int) -> None:
        kinds = [
            self.write, self.write, self.write, self.append, self.sparse, self.folder, self.folder,
            self.remove, self.remove_tree, self.move, self.symlink, self.hardlink, self.mode, self.attribute,
            self.fifo, self.replace,
        ]  # fmt: skip
        for _ in range(count):
            try:
                self.random.choice(kinds)()
            except OSError:
                if not self.by_fuse:
                    raise

    def paths(self, want: str = "") -> list[Path]:
        """All paths of a kind, in an order that depends on names alone."""
        found = []
        for parent, folders, files in os.walk(self.root):
            for name in [*folders, *files]:
                path = Path(parent, name)
                mode = path.lstat().st_mode
                kind = "d" if stat.S_ISDIR(mode) else "f" if stat.S_ISREG(mode) else "o"
                if not want or kind in want:
                    found.append(path)
        return sorted(found, key=os.fsencode)

    def pick(self, want: str) -> Path | None:
        paths = self.paths(want)
        return self.random.choice(paths) if paths else None

    def fresh(self) -> Path:
        """A path in some folder, perhaps taken."""
        folder = self.random.choice([self.root, *self.paths("d")])
        return folder / self.random.choice(self.names)

    def stamp(self, path: Path) -> None:
        self.time += 7
        os.utime(path, ns=(self.time * 10**9 + 123456789,) * 2, follow_symlinks=False)

    def content(self) -> bytes:
        return self.random.randbytes(self.random.choice([0, 1, 100, 5000, 70_000]))

    def apart(self, path: Path) -> None:
        """Part a file from its other names, as editors do by writing beside and renaming."""
        if self.break_links and path.lstat().st_nlink > 1:
            fresh = path.with_name(".apart")
            shutil.copy2(path, fresh)
            fresh.rename(path)

    def open_up(self, path: Path) -> None:
        """Make a file writable where its mode counts: for users who are not root, and for all on a file server."""
        if not os.access(path, os.W_OK):
            path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o200)

    def write(self) -> None:
        path, content = self.fresh(), self.content()
        if path.is_symlink() or (path.exists() and not path.is_file()):
            return
        if path.exists():
            self.apart(path)
            self.open_up(path)
        path.write_bytes(content)
        self.stamp(path)

    def append(self) -> None:
        path, content = self.pick("f"), self.content()
        if path is not None:
            self.apart(path)
            self.open_up(path)
            with path.open("ab") as file:
                file.write(content)
            self.stamp(path)

    def sparse(self) -> None:
        path = self.fresh()
        if not path.is_symlink() and not path.exists():
            with path.open("wb") as file:
                file.seek(SPARSE)
                file.write(b"end")
            self.stamp(path)

    def folder(self) -> None:
        path = self.fresh()
        if not path.is_symlink() and not path.exists():
            path.mkdir()

    def remove(self) -> None:
        path = self.pick("fo")
        if path is not None:
            path.unlink()

    def remove_tree(self) -> None:
        path = self.pick("d")
        if path is not None and self.random.random() < 0.5:
            shutil.rmtree(path)

    def replace(self) -> None:
        """A folder removed and made again with other content: overlayfs calls it opaque."""
        path, content = self.pick("d"), self.content()
        if path is not None:
            shutil.rmtree(path)
            path.mkdir()
            (path / "new").write_bytes(content)
            self.stamp(path / "new")

    def move(self) -> None:
        """Move as mv(1) does: rename, or copy and remove where the file system cannot rename a folder."""
        path, target = self.pick("fdo"), self.fresh()
        if path is None or target.is_symlink() or target.exists() or path in [target, *target.parents]:
            return
        try:
            path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copied = subprocess.run(["cp", "-a", "--", path, target], check=not self.by_fuse)
            if copied.returncode == 0:
                shutil.rmtree(path)

    def symlink(self) -> None:
        path, target = self.fresh(), self.random.choice(["a", "../b", "/etc/passwd", "nowhere"])
        if not path.is_symlink() and not path.exists() and not (self.by_fuse and target == path.name):
            path.symlink_to(target)
            self.stamp(path)

    def hardlink(self) -> None:
        path, target = self.pick("f"), self.fresh()
        if path is not None and not self.by_fuse and not target.is_symlink() and not target.exists():
            target.hardlink_to(path)

    def mode(self) -> None:
        path = self.pick("fd")
        mode = self.random.choice([0o755, 0o700, 0o640, 0o444])
        if path is not None:
            if path.is_file():
                self.apart(path)
            path.chmod(mode | (0o700 if path.is_dir() else 0))

    def attribute(self) -> None:
        path, value = self.pick("fd"), self.random.randbytes(20)
        if path is not None:
            if path.is_file():
                self.apart(path)
            self.open_up(path)
            os.setxattr(path, "user.test", value)

    def fifo(self) -> None:
        path = self.fresh()
        if not self.by_fuse and not path.is_symlink() and not path.exists():
            os.mkfifo(path, 0o600)
            self.stamp(path)


def tree(root: Path) -> Tree:
    """All of a tree; the root itself is left out. OSError if a directory cannot be listed."""

    def refuse(error: OSError) -> NoReturn:
        raise error

    found: Tree = {}
    inodes: dict[int, list[str]] = {}
    for parent, folders, files in os.walk(root, onerror=refuse):
        for name in [*folders, *files]:
            path = Path(parent, name)
            status = path.lstat()
            relative = str(path.relative_to(root))
            entry: dict[str, Any] = {"mode": status.st_mode}
            if stat.S_ISLNK(status.st_mode):
                entry["target"] = str(path.readlink())
            else:
                entry["attributes"] = {
                    name: os.getxattr(path, name).hex()
                    for name in os.listxattr(path)
                    if name.startswith("user.") and not name.startswith("user.overlay.")
                }
            if stat.S_ISREG(status.st_mode):
                entry["content"] = hashlib.sha256(path.read_bytes()).hexdigest()
                inodes.setdefault(status.st_ino, []).append(relative)
            entry["time" if not stat.S_ISDIR(status.st_mode) else "folder time"] = status.st_mtime_ns
            found[relative] = entry
    for names in inodes.values():
        for name in names:
            found[name]["names"] = sorted(names)
    return found


def everything(root: Path, files: int, *, by_fuse: bool) -> None:
    """Make 100 folders with so many files each, and every oddity, in an empty folder."""
    for folder in range(100):
        (root / f"many{folder}").mkdir()
        for number in range(files):
            (root / f"many{folder}" / f"file{number}").write_bytes(b"%d\n" % number * (number % 50))
    deep = root
    for level in range(60):
        deep /= f"level {level}"
        deep.mkdir()
    (deep / "bottom").write_text("deep\n")
    for name in [*NAMES, *([] if by_fuse else [MARK])]:
        (root / "odd" / name).mkdir(parents=True)
        (root / "odd" / name / name).write_text("odd\n")
    with (root / "sparse").open("wb") as file:
        file.truncate(50 * 2**20)
        file.seek(20 * 2**20)
        file.write(b"in the middle")
    (root / "link").symlink_to("many0/file1")
    (root / "dangling").symlink_to("../../nowhere")
    (root / "marked").write_text("marked\n")
    os.setxattr(root / "marked", "user.test", b"value")
    os.setxattr(root / "odd", "user.test", b"of a folder")
    (root / "closed").write_text("nobody may read this\n")
    (root / "closed").chmod(0)
    (root / "locked").mkdir()
    (root / "locked/inside").write_text("inside\n")
    (root / "locked").chmod(0)
    if not by_fuse:
        os.mkfifo(root / "pipe", 0o640)
        (root / "linked").write_text("one inode\n")
        (root / "many0/also linked").hardlink_to(root / "linked")


def turn_over(root: Path, files: int) -> None:
    """Change what `everything` made: delete, replace, rename, and write to all sorts of it."""
    for folder in range(0, 100, 3):
        shutil.rmtree(root / f"many{folder}")
    for folder in range(0, 100, 6):
        (root / f"many{folder}").mkdir()
        (root / f"many{folder}" / "replaced").write_text("opaque\n")
    subprocess.run(["mv", root / "many1", root / "renamed"], check=True)
    for number in range(0, files, 2):
        (root / "many2" / f"file{number}").unlink()
        (root / "many4" / f"file{number}").write_text("changed\n")
    (root / "odd").chmod(0o711)
    os.setxattr(root / "marked", "user.test", b"other")
    with (root / "sparse").open("r+b") as file:
        file.truncate(60 * 2**20)
    (root / "link").unlink()
    (root / "link").write_text("no link any more\n")


def main() -> None:
    """`python changes.py ROOT SEED COUNT FLAGS`: make COUNT random changes, or what FLAGS say; print what it is,
    unless FLAGS say `unseen`.
    """
    root, seed, count, flags = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    files = 100 if "large" in flags else 10
    if "everything" in flags:
        everything(root, files, by_fuse="fuse" in flags)
    if "turn-over" in flags:
        turn_over(root, files)
    Changer(root, seed, break_links="links" in flags, by_fuse="fuse" in flags).run(count)
    if "unseen" not in flags:
        print(json.dumps(tree(root)))


if __name__ == "__main__":
    os.umask(0o022)
    main()
