"""`diff` over all drivers: it tells what differs between the mounted views of two states of a session."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from broker.names import new_id
from broker.volumes import inspection, operations
from broker.volumes.content import ACCESS_LISTS
from broker.volumes.image import ImageFiles
from broker.volumes.operations import SnapshotNote
from broker.volumes.squashfs import KEPT
from profiles.removal import remove_tree
from tests.volumes.access_list import access_list
from tests.volumes.filesystems import mounted
from tests.volumes.running import IMAGE, Running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.volumes.changes import Tree

GROUNDS = ["overlay-ext4", "fuse-ext4", "fuse-without-devices", "reflink-xfs", "plain-ext4", "node-ext4"]
_rooms = itertools.count()
Changes = set[tuple[str, str]]
"""Changes and paths."""


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A driver, and a file system for it."""
    driver, _, kind = request.param.partition("-")
    folder = tmp_path_factory.mktemp("filesystem")
    with mounted("ext4" if kind == "without-devices" else kind, folder) as filesystem, contextlib.ExitStack() as stack:
        path = filesystem.path
        if kind == "without-devices":
            path = stack.enter_context(_without_devices(path))
        yield driver, path


@contextlib.contextmanager
def _without_devices(folder: Path) -> Iterator[Path]:
    """Mount an overlay of the kernel's: it makes no devices 0:0, so fuse-overlayfs over it writes `.wh.NAME`."""
    for name in ("lower", "upper", "work", "merged"):
        (folder / name).mkdir()
    options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", folder / "merged"], check=True)
    try:
        yield folder / "merged"
    finally:
        subprocess.run(["umount", "--lazy", folder / "merged"], check=True)


def room(ground: tuple[str, Path]) -> Running:
    driver, path = ground
    folder = path / f"room{next(_rooms)}"
    folder.mkdir()
    name = {"fuse": "overlay", "node": "plain"}.get(driver, driver)
    return Running.on(folder, name, by_fuse=driver == "fuse", on_node=driver == "node")


def image_of(running: Running) -> ImageFiles:
    """Pack what lies under system volumes, as an image has it; diff knows no line ends in names there (storage.md)."""
    subprocess.run(["find", running.base, "-depth", "-name", "*\n*", "-exec", "rm", "-rf", "{}", ";"], check=True)
    packed = running.base.parent / "image.squashfs"
    subprocess.run(["mksquashfs", running.base, packed, "-quiet", "-no-progress"], check=True, capture_output=True)
    return ImageFiles(str(packed), 0)


def differences(before: Tree, after: Tree, *, seconds: bool) -> Changes:
    """Compare two trees path by path; of a folder that is gone or replaced only its own path is reported."""

    def comparable(entry: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in entry.items() if name not in {"folder time", "names"}}
        return kept | {"time": kept["time"] // (10**9 if seconds else 1)} if "time" in kept else kept

    def is_folder(tree: Tree, path: str) -> bool:
        return "folder time" in tree[path]

    changes: Changes = set()
    for path in before.keys() | after.keys():
        parent = path.rpartition("/")[0]
        if path not in before:
            changes.add(("A", path))
        elif path not in after:
            if not parent or (parent in after and is_folder(after, parent)):
                changes.add(("D", path))
        elif comparable(before[path]) != comparable(after[path]):
            changes.add(("M", path))
    return changes


def changes_between(
    running: Running,
    session: str,
    number: int,
    image: ImageFiles,
    kind: str,
    *,
    content: bool,
    until: int | None = None,
) -> Changes:
    answer = inspection.diff(running.storage, session, number, until=until, image=image, content=content)
    assert not answer["truncated"]
    paths = [(each["change"], each["path"]) for each in answer["files"] if each["volume"] == kind]
    assert len(paths) == len(set(paths))
    return set(paths)


def printable(changes: Changes) -> Changes:
    return {(change, inspection.printable_path(path)) for change, path in changes}


@pytest.mark.parametrize("ground", GROUNDS, indirect=True)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=1, deadline=None, phases=[Phase.generate])
def test_diff_tells_what_differs_between_the_mounted_views(ground: tuple[str, Path], seed: int) -> None:
    _compare_with_views(ground, seed)


@pytest.mark.soak
@pytest.mark.parametrize("ground", GROUNDS, indirect=True)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20, deadline=None, phases=[Phase.generate])
def test_diff_tells_what_differs_after_many_histories(ground: tuple[str, Path], seed: int) -> None:
    _compare_with_views(ground, seed)


def _compare_with_views(ground: tuple[str, Path], seed: int) -> None:
    running = room(ground)
    chance = random.Random(seed)  # noqa: S311 - a failure has to come again
    running.plain(running.base, "system", seed, 40)
    image = image_of(running)
    session = running.create()
    snapshots: dict[int, dict[str, Tree]] = {}
    for step in range(4):
        for kind in ("home", "system"):
            running.change(session, kind, seed + step, 25)
        views = {kind: running.change(session, kind) for kind in ("home", "system")}
        for number, then in snapshots.items():
            seconds = running.driver == "plain"
            home = printable(differences(then["home"], views["home"], seconds=seconds))
            assert changes_between(running, session, number, image, "home", content=True) == home
            system = printable(differences(then["system"], views["system"], seconds=seconds))
            changes = changes_between(running, session, number, image, "system", content=True)
            # What lies in the image is known by its path alone: what a layer has of it counts as modified.
            of_image = {("M", inspection.printable_path(path)) for path in then["system"] if running.below(path)}
            assert changes - of_image == system - of_image
        answer = operations.snapshot(running.storage, session, new_id(), IMAGE, SnapshotNote())
        taken = answer["snapshot"]["number"]
        for number, then in snapshots.items():
            home = printable(differences(then["home"], views["home"], seconds=running.driver == "plain"))
            assert changes_between(running, session, number, image, "home", content=True, until=taken) == home
        assert changes_between(running, session, taken, image, "home", content=True, until=taken) == set()
        snapshots[taken] = views
        if chance.random() < 0.3:
            operations.flatten(running.storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    remove_tree(running.base.parent)


@pytest.mark.parametrize("ground", GROUNDS, indirect=True)
def test_content_and_attributes_are_compared(ground: tuple[str, Path]) -> None:
    running = room(ground)
    session, image = running.create(), image_of(running)
    layers = running.storage.layers
    top = layers.tree(running.record(session).home.top)
    for name in ("same", "bytes", "attribute", "list"):
        (top / name).write_text("before")
        os.setxattr(top / name, ACCESS_LISTS[0], access_list(4))
        os.utime(top / name, ns=(10**18, 10**18))
    number = operations.snapshot(running.storage, session, new_id(), IMAGE, SnapshotNote())["snapshot"]["number"]
    top = layers.tree(running.record(session).home.top)
    for name, text in (("same", "before"), ("bytes", "after!"), ("attribute", "before"), ("list", "before")):
        (top / name).write_text(text)
        os.setxattr(top / name, ACCESS_LISTS[0], access_list(6 if name == "list" else 4))
        os.utime(top / name, ns=(10**18, 10**18))
    os.setxattr(top / "attribute", "user.colour", b"red")
    modes = {(top / name).stat().st_mode for name in ("same", "bytes", "attribute", "list")}
    assert len(modes) == 1
    assert changes_between(running, session, number, image, "home", content=False) == {
        ("M", "attribute"),
        ("M", "list"),
    }
    changes = changes_between(running, session, number, image, "home", content=True)
    assert changes == {("M", "attribute"), ("M", "bytes"), ("M", "list")}
    if running.driver == "plain":
        packed = layers.path(running.record(session).snapshot(number).home[-1])
        (packed / KEPT).unlink()  # of an earlier version, which kept no access lists
        assert changes_between(running, session, number, image, "home", content=False) == {("M", "attribute")}
    remove_tree(running.base.parent)


def test_content_of_sparse_files_is_compared_without_their_holes(tmp_path: Path) -> None:
    running = room(("overlay", tmp_path))
    session, image = running.create(), image_of(running)

    def write(last: bytes) -> None:
        with (running.storage.layers.tree(running.record(session).home.top) / "sparse").open("wb") as file:
            file.truncate(2**40)
            file.seek(2**39)
            file.write(last)
        os.utime(file.name, ns=(10**18, 10**18))

    write(b"one")
    number = operations.snapshot(running.storage, session, new_id(), IMAGE, SnapshotNote())["snapshot"]["number"]
    write(b"one")
    assert changes_between(running, session, number, image, "home", content=True) == set()
    write(b"two")
    assert changes_between(running, session, number, image, "home", content=True) == {("M", "sparse")}
