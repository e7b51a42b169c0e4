"""Directories that are made once, found by the hash of their sources, and published by rename."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from typing import TYPE_CHECKING, TextIO

from slurm.lab.commands import run_tool
from slurm.lab.interrupts import terminable
from slurm.lab.modes import world_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from slurm.lab.progress import ProgressLog

_KEY = re.compile(r"[0-9a-f]{16}")


def cached_tree(root: Path, name: str, key: str, make: Callable[[Path], None], progress: ProgressLog) -> Path:
    """Return `<root>/<name>-<key>`, and call `make(work directory)` first if it does not exist.

    `make` creates `<work directory>/tree`, which one rename publishes: a half-made tree is never found. Two processes
    that need the same tree take turns.
    """
    final = root / f"{name}-{key}"
    if final.is_dir():
        return final
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name}-{key}.lock").open("w+") as lock:
        _take(lock, say=lambda: progress.say(f"waiting for another process that makes {name}"))
        if final.is_dir():
            return final
        work = root / f".{name}-{key}.work"
        _remove(work)
        work.mkdir(mode=0o755)
        try:
            with terminable(), world_readable():
                make(work)
                # The name promises the contents, also after a power cut.
                run_tool(["sync", "--file-system", str(work)], seconds=300)
            (work / "tree").rename(final)
        finally:
            _remove(work)
    return final


def keep_newest(root: Path, name: str, count: int) -> None:
    """Remove all trees of this name except the `count` that were used last."""
    trees = [path for path in root.glob(f"{name}-*") if _KEY.fullmatch(path.name.removeprefix(f"{name}-"))]
    trees.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in trees[count:]:
        shutil.rmtree(path, ignore_errors=True)


def mark_used(tree: Path) -> Path:
    """Note that a tree of the cache is needed now, and return it."""
    os.utime(tree)
    return tree


def _take(lock: TextIO, say: Callable[[], None]) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say()
        fcntl.flock(lock, fcntl.LOCK_EX)


def digest_of(parts: Iterable[str], files: Iterable[Path] = ()) -> str:
    """Return a short hash of texts and of the names, modes and contents of files and directories."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part.encode()).to_bytes(8, "big") + part.encode())
    for top in files:
        members = sorted(top.rglob("*")) if top.is_dir() else [top]
        for path in members:
            name = path.relative_to(top.parent)
            total.update(f"\0{name}\0{path.lstat().st_mode:o}\0".encode())
            if path.is_symlink():
                total.update(str(path.readlink()).encode())
            elif path.is_file():
                total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def _remove(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
