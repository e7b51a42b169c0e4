"""An image whose layers are hard to unpack, and what root makes of it with GNU tar and the rules of whiteouts."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.container_images import Member, folder, hard_link, layer, symlink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TTY, SETUID, SETGID = 5, 0o4755, 0o2755

_TRICKY = [
    [
        folder("./", mtime=1_600_000_000),
        folder("etc", uid=42, gid=60000),
        Member("etc/owned", b"owned", uid=42, gid=60000, mode=0o640),
        Member("etc/wall", b"wall", gid=TTY, mode=SETGID),
        Member("etc/su", b"su", mode=SETUID),
        folder("secret", 0, mtime=1_500_000_000),
        Member("secret/inner", b"none may read", mode=0),
        folder("opaque"),
        Member("opaque/old"),
        folder("opaque/older", uid=7),
        Member("opaque/older/x"),
        Member("deleted"),
        folder("deleted-folder"),
        Member("deleted-folder/x"),
        folder("sticky", 0o1777),
        symlink("link", "/etc/owned"),
        symlink("dangling", "../../nowhere"),
        Member("pipe", kind=tarfile.FIFOTYPE, mode=0o600),
        Member("replaced", b"file"),
        folder("replaced-folder"),
        Member("replaced-folder/x"),
        Member("long/" + "n" * 200, b"a name beyond ustar"),
    ],
    [
        folder("opaque", 0o700, uid=1),
        Member("opaque/.wh..wh..opq"),
        Member("opaque/new", b"new"),
        Member(".wh.deleted"),
        Member(".wh.deleted-folder"),
        hard_link("etc/hard", "etc/owned"),
        folder("replaced", 0o711),
        Member("replaced-folder", b"now a file", mode=0o600),
    ],
    [hard_link("hardest", "etc/hard"), Member("etc/su", b"su, changed", mode=0o755, uid=9)],
]
"""With owners, modes, links and whiteouts that tools get wrong."""


def tricky_layers(below: str = "") -> list[bytes]:
    """Return the layers, with all entries below the folder `below`, which ends with a slash."""
    return [
        layer(
            *(
                replace(each, name=below + each.name.removeprefix("./"), link=below + each.link)
                if each.kind == tarfile.LNKTYPE
                else replace(each, name=below + each.name.removeprefix("./") or "./")
                for each in members
            )
        )
        for members in _TRICKY
    ]


def reference(layers: Sequence[bytes], root: Path) -> Path:
    """Unpack layers as root with GNU tar, whiteouts by the rules of OCI, before the other entries of their layer."""
    root.mkdir()
    for content in layers:
        archive = root.with_name(f"{root.name}.tar")
        archive.write_bytes(content)
        with tarfile.open(archive) as members:
            names = members.getnames()
            replaced = {each.name: each.isdir() for each in members.getmembers()}
        for name in names:
            parent, _, base = name.rpartition("/")
            if base == ".wh..wh..opq":
                for inner in (root / parent).iterdir():
                    _remove(inner)
            elif base.startswith(".wh."):
                _remove(root / parent / base.removeprefix(".wh."))
        for name, is_folder in replaced.items():
            there = root / name
            if os.path.lexists(there) and there.is_dir() != is_folder:
                _remove(there)
        unpack = ["tar", "-x", "-p", "--same-owner", "--numeric-owner", "--exclude=.wh.*", "-f", str(archive)]
        subprocess.run([*unpack, "-C", str(root)], check=True)
    return root


def listing(root: Path, own_id: Callable[[int], int] = lambda number: number) -> dict[str, tuple[object, ...]]:
    """Return kind, mode, owner, size or target, and time of everything below a folder, by path.

    Hard links have a common name at the end. Folders have no time: GNU tar changes that of folders of lower layers.
    `own_id` translates ids.
    """
    first: dict[int, str] = {}
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted([root, *root.rglob("*")]):
        name, status = str(path.relative_to(root)), path.lstat()
        what: object = str(path.readlink()) if path.is_symlink() else status.st_size
        if path.is_dir() and not path.is_symlink():
            what = ""
        time_s = 0 if what == "" else int(status.st_mtime)
        one = first.setdefault(status.st_ino, name)
        found[name] = (
            stat.filemode(status.st_mode), own_id(status.st_uid), own_id(status.st_gid), what, time_s, one,
        )  # fmt: skip
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
