"""Packed layers of the plain driver: what comes back is what was packed, where squashfs alone would change it."""

from __future__ import annotations

import errno
import os
import stat
import struct
from functools import partial
from typing import TYPE_CHECKING

import pytest

from broker.volumes import squashfs
from broker.volumes.comparison import ComparisonDepth, compare_stacks, open_stacks
from broker.volumes.content import data_extents
from broker.volumes.entry_copy import remove_entry
from broker.volumes.errors import VolumeError
from broker.volumes.layers import SQUASHFS, Layers
from broker.volumes.live_copy import copy_tree
from broker.volumes.squashfs import DEEP, KEPT, pack_layer, unpack_layer
from broker.volumes.verification import LayerContent, Problems
from profiles.image.overlayfs import Marks
from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from profiles.walk import Folder

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """Directories for layers, which may be too deep for pytest to remove."""
    for name in ("tree", "layer", "unpacked"):
        (tmp_path / "room" / name).mkdir(parents=True)
    (tmp_path / "room/unpacked").rmdir()
    yield tmp_path / "room"
    with Tree(tmp_path) as tree:
        remove_entry(tree.root, b"room")


def access_list(owner: int) -> bytes:
    """Return a list that gives a further user, of this number, its rights: acl(5), as the kernel stores it."""
    none = 2**32 - 1
    entries = [(0x01, 7, none), (0x02, 5, owner), (0x04, 5, none), (0x10, 5, none), (0x20, 0, none)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def shown(root: Path) -> dict[bytes, object]:
    """All of a tree that has to come back, the root included; times to the second."""
    with Tree(root) as tree:
        found: dict[bytes, object] = {b"": _look(tree.root, b".")}
        for entry in walk(tree.root, is_steady=True):
            found[entry.path] = _look(entry.folder, entry.name)
    return found


def _look(folder: Folder, name: bytes) -> object:
    status = os.stat(name, dir_fd=folder.descriptor(), follow_symlinks=False)
    path = folder.short_path(name)
    attributes = {each: os.getxattr(path, each, follow_symlinks=False) for each in _listed(path)}
    content: object = b""
    if stat.S_ISREG(status.st_mode):
        descriptor = os.open(name, os.O_RDONLY, dir_fd=folder.descriptor())
        content = (os.read(descriptor, 1 << 20), status.st_size, data_extents(descriptor, status.st_size))
        os.close(descriptor)
    names = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
    return (status.st_mode, status.st_mtime_ns // 10**9, names, attributes, content)


def _listed(path: bytes) -> list[str]:
    return [name for name in os.listxattr(path, follow_symlinks=False) if name.startswith(("user.", "system."))]


def test_what_squashfs_cannot_hold_comes_back(room: Path) -> None:
    tree = room / "tree"
    (tree / "folder").mkdir()
    for name in ("file", "folder/inner", "both"):
        (tree / name).write_text("text")
    for path in (tree, tree / "folder"):
        os.setxattr(path, DEFAULT, access_list(4321))
    for path in (tree / "folder", tree / "file", tree / "both"):
        os.setxattr(path, ACCESS, access_list(1234))
        os.setxattr(path, "user.test", b"value")
    with (tree / "holes").open("wb") as file:
        for page in range(0, 100, 3):
            file.seek(page * 65_536)
            file.write(b"data" * 1024)
        file.truncate(1 << 23)
    (tree / "only hole").touch()
    os.truncate(tree / "only hole", 1 << 20)
    (tree / "second").hardlink_to(tree / "holes")
    (tree / "link").symlink_to("nowhere")
    os.mkfifo(tree / "fifo")
    old, new = -631_152_000, 2**32 + 1000
    for name, seconds in (("link", old), ("fifo", new), ("both", old), ("holes", new), ("folder", old), ("", old)):
        os.utime(tree / name, (1, seconds), follow_symlinks=False)
    wanted = shown(tree)
    pack_layer(tree, room / "layer")
    unpack_layer(room / "layer" / SQUASHFS, room / "unpacked")
    assert shown(room / "unpacked") == wanted


@pytest.mark.parametrize(("name", "depth"), [(b"d" * 9, 500), (b"n" * 250, 20)], ids=["deep", "long"])
def test_paths_that_squashfs_tools_cannot_take_come_back(room: Path, name: bytes, depth: int) -> None:
    with Tree(room / "tree") as tree:
        folder = tree.root
        for _ in range(depth):
            os.mkdir(name, dir_fd=folder.descriptor())
            os.mkdir(b"beside", dir_fd=folder.descriptor())
            folder = folder.folder(name)
            with open(b"file", "wb", opener=partial(os.open, dir_fd=folder.descriptor())) as file:
                file.write(b"content")
    wanted = shown(room / "tree")
    pack_layer(room / "tree", room / "layer")
    unpack_layer(room / "layer" / SQUASHFS, room / "unpacked")
    assert shown(room / "unpacked") == wanted


def test_records_that_could_not_be_read_again_are_refused(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        (room / f"tree/{number}").touch()
        os.truncate(room / f"tree/{number}", 1 << 20)
    monkeypatch.setattr(squashfs, "MAX_KEPT_BYTES", 100)
    pack_layer(room / "tree", room / "layer")
    assert 0 < (room / "layer" / KEPT).stat().st_size <= 100
    unpack_layer(room / "layer" / SQUASHFS, room / "unpacked")
    assert {path.read_bytes() for path in room.glob("unpacked/*")} == {bytes(1 << 20)}
    for number in range(10):
        os.setxattr(room / f"tree/{number}", ACCESS, access_list(1234))
    (room / "second").mkdir()
    with pytest.raises(VolumeError, match="access lists"):
        pack_layer(room / "tree", room / "second")


@pytest.mark.parametrize(
    "record",
    [
        b'{"mtime":1} ../outside',
        b"nonsense file",
        b'{"lists":3} file',
        b"[] file",
        b"[" * 100_000 + b" file",
        b'{"mtime":1e400} file',
        b'{"lists":{"system.posix_acl_access":"0200000000"}} file',
    ],
    ids=["outside", "text", "number", "list", "depth", "infinity", "access list"],
)
def test_damaged_record_is_refused(room: Path, record: bytes) -> None:
    (room / "tree/file").write_text("content")
    (room / "outside").write_text("content")
    pack_layer(room / "tree", room / "layer")
    (room / "layer" / KEPT).write_bytes(record + b"\0")
    with pytest.raises(VolumeError, match="is damaged"):
        unpack_layer(room / "layer" / SQUASHFS, room / "unpacked")
    assert (room / "outside").stat().st_mtime > 1


def test_all_that_a_packed_layer_has_is_verified(room: Path) -> None:
    layers = Layers(room)
    (room / "tree/odd").write_text("of another time")
    os.utime(room / "tree/odd", (1, 2**32 + 1))
    with Tree(room / "tree") as tree:
        folder = tree.root
        for _ in range(20):
            os.mkdir(b"n" * 250, dir_fd=folder.descriptor())
            folder = folder.folder(b"n" * 250)
            os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT, dir_fd=folder.descriptor()))
    pack_layer(room / "tree", room / "layer")

    def problems() -> list[str]:
        found = Problems()
        with LayerContent(layers, "layer") as content:
            content.read(found)
            if content.file.exists():
                content.compare(found)
            else:
                content.record()
        return found.lines()

    assert problems() == []
    assert problems() == []
    (room / "layer" / KEPT).write_bytes(b"")
    deep = next(path for path in (room / "layer" / DEEP).rglob("file"))
    deep.write_text("changed")
    (room / "layer" / SQUASHFS).chmod(0o640)
    assert len(problems()) == 3
    deep.unlink()
    assert f"layer: {deep.relative_to(room / 'layer')}: is missing" in problems()


def test_file_system_without_extended_attributes(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (room / "tree/folder").mkdir()
    (room / "tree/folder/file").write_text("text")
    (room / "tree/link").symlink_to("nowhere")
    wanted = shown(room / "tree")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    with monkeypatch.context() as patch:
        patch.setattr(os, "listxattr", refuse)
        pack_layer(room / "tree", room / "layer")
        unpack_layer(room / "layer" / SQUASHFS, room / "unpacked")
        copy_tree(str(room / "unpacked"), str(room / "copy"))
        with open_stacks([room / "tree"], [room / "copy/tree"], (Marks.NONE, Marks.NONE)) as (before, after):
            assert not [*compare_stacks(before, after, None, ComparisonDepth(seconds=True))]
    assert shown(room / "copy/tree") == wanted
