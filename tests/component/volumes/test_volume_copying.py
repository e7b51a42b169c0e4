"""Copies of trees that change meanwhile, or that are deep."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

from broker.volumes import copied_folders, entry_copy, live_copy
from broker.volumes.entry_copy import remove_entry
from broker.volumes.live_copy import TreeCopy
from profiles.walk import Tree, walk
from tests.volumes.tree_content import content

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from broker.volumes.copied_folders import CopiedFolder
    from profiles.walk import Folder


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A volume, and a real home with files and folders of the same names."""
    for tree, text in (("volume", "of the session\n"), ("real", "secret\n")):
        for name in ("a/file", "a/b/file", "a/b/c/file"):
            file = tmp_path / tree / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / tree / "a/link").symlink_to(text)
    return tmp_path


class SwappingCopy(TreeCopy):
    """A copy under whose eyes `swapped` becomes a link to the real home once the folder `when` has been listed."""

    room: Path
    when = b""
    swapped = ""

    def _list(self, folder: CopiedFolder) -> tuple[os.stat_result, list[tuple[str, os.stat_result]]]:
        answer = super()._list(folder)
        place = self.room / "volume" / self.swapped
        if folder.path == self.when and not place.is_symlink():
            shutil.move(place, self.room / "gone")
            place.symlink_to(self.room / "real" / self.swapped)
        return answer


@pytest.mark.parametrize("when", [b"", b"a", b"a/b", b"a/b/c"])
@pytest.mark.parametrize("swapped", ["a", "a/b", "a/b/c"])
def test_folder_that_becomes_a_link_is_not_followed(room: Path, when: bytes, swapped: str) -> None:
    copy = SwappingCopy(str(room / "volume"), str(room / "layer"))
    copy.room, copy.when, copy.swapped = room, when, swapped
    try:
        copy.first_pass()
        copied = [path for path in room.joinpath("layer/tree").rglob("*") if not path.is_dir()]
        texts = [str(path.readlink()) if path.is_symlink() else path.read_text() for path in copied]
        assert "secret\n" not in texts
        copy.second_pass()
    finally:
        copy.close()
    assert room.joinpath("layer/tree", swapped).is_symlink()
    assert {path.read_text() for path in room.joinpath("layer").rglob("file")} <= {"of the session\n"}


def copied(room: Path, source: Path, previous: str = "", change: Callable[[], object] = lambda: None) -> Path:
    """Copy a tree whose files are old; `change` comes between the two passes."""
    target = room / f"layer{len(list(room.glob('layer*')))}"
    copy = TreeCopy(str(source), str(target), previous)
    try:
        copy.survey()
        copy.mark_drained()
        copy.first_pass()
        change()
        copy.second_pass()
        copy.complete()
    finally:
        copy.close()
    return target


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stamps prove at once that a file has not changed, on any file system."""
    monkeypatch.setattr(entry_copy, "RACY_NS", 0)
    monkeypatch.setattr(live_copy, "shows_stores", lambda _: True)


def write(folder: Folder, name: bytes, text: bytes) -> None:
    with open(name, "wb", opener=partial(os.open, dir_fd=folder.descriptor())) as file:
        file.write(text)


def nest(top: Path, name: bytes, depth: int) -> tuple[Tree, Folder]:
    """Make folders of this name within each other, with a file in some; the innermost one."""
    top.mkdir()
    tree = Tree(top)
    folder = tree.root
    for level in range(depth):
        if level % 100 == 0:
            write(folder, b"file", b"old")
        os.mkdir(name, dir_fd=folder.descriptor())
        folder = folder.folder(name)
    return tree, folder


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """A directory whose folders may be too deep for pytest to remove."""
    (tmp_path / "room").mkdir()
    yield tmp_path / "room"
    with Tree(tmp_path) as tree:
        remove_entry(tree.root, b"room")


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(("name", "depth"), [(b"deep", 1100), (b"n" * 250, 20)], ids=["deep", "long"])
def test_paths_beyond_all_limits_are_copied_and_the_rest_is_linked(roomy: Path, name: bytes, depth: int) -> None:
    tree, innermost = nest(roomy / "source", name, depth)
    write(tree.root, b"shallow", b"old")
    write(innermost, b"changes", b"old")
    write(innermost, b"goes", b"old")
    os.mkdir(b"folder", dir_fd=innermost.descriptor())
    write(innermost.folder(b"folder"), b"goes", b"old")
    os.link("file", "linked", src_dir_fd=tree.root_descriptor, dst_dir_fd=innermost.descriptor())

    def change() -> None:
        write(innermost, b"changes", b"new")
        remove_entry(innermost, b"goes")
        remove_entry(innermost, b"folder")

    layer = copied(roomy, roomy / "source", change=change)
    assert content(layer / "tree") == content(roomy / "source")
    again = copied(roomy, roomy / "source", str(layer))
    assert content(again / "tree").keys() == content(roomy / "source").keys()
    assert (again / "tree/shallow").stat().st_ino == (layer / "tree/shallow").stat().st_ino
    tree.close()


@pytest.mark.usefixtures("trusting")
def test_folders_that_change_while_a_copy_is_made(roomy: Path) -> None:
    """Removed and replaced at any depth, by whatever has a name."""
    for name, depth in {"removed": 1100, "replaced": 20, "locked": 20, "moved": 20}.items():
        nest(roomy / name, b"d", depth)[0].close()
    source = roomy / "source"
    source.mkdir()
    for name in ("removed", "replaced", "locked", "moved"):
        (roomy / name).rename(source / name)
    (source / "locked/d").chmod(0o500)
    (source / "socket").write_text("a file")
    (source / "folder").write_text("a file")

    def change() -> None:
        with Tree(source) as tree:
            remove_entry(tree.root, b"removed")
            remove_entry(tree.root, b"replaced")
        (source / "replaced").write_text("a file")
        (source / "moved").rename(source / "elsewhere")
        (source / "socket").unlink()
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(source / "socket"))
        (source / "folder").unlink()
        (source / "folder").mkdir(0o711)

    layer = copied(roomy, source, change=change)
    wanted = content(source)
    del wanted[b"socket"]
    assert content(layer / "tree") == wanted


def names_by_file(root: Path) -> set[frozenset[bytes]]:
    """The names of each file that has several in a tree."""
    names: dict[int, set[bytes]] = {}
    with Tree(root) as tree:
        for entry in walk(tree.root, is_steady=True):
            if not entry.is_folder:
                names.setdefault(entry.status.st_ino, set()).add(entry.path)
    return {frozenset(each) for each in names.values() if len(each) > 1}


def without_names(found: dict[bytes, tuple[int, int, int, bytes]]) -> dict[bytes, tuple[int, int, bytes]]:
    """Return the result of `content` without the numbers of links: a copy's files have some in the last copy, too."""
    return {path: (mode, time, data) for path, (mode, time, _, data) in found.items()}


def change_at_random(places: Sequence[Path], random: Random) -> None:
    """Write to files, and have names become those of other files, of folders and of links."""
    for number in range(60):
        one, two = random.sample(places, 2)
        if one in two.parents or two in one.parents or not one.exists() or not two.parent.is_dir():
            continue
        what = random.choice(("write", "rename", "link", "point"))
        if what in {"write", "link"} and (not one.is_file() or (two.exists() and one.samefile(two))):
            continue
        if what == "write":
            one.write_text(f"written {number}\n")
            continue
        if two.is_dir() and not two.is_symlink():
            shutil.rmtree(two)
        else:
            two.unlink(missing_ok=True)
        if what == "rename":
            one.rename(two)
        elif what == "link":
            two.hardlink_to(one)
        else:
            two.symlink_to("nowhere")


@pytest.mark.parametrize("is_trusting", [True, False])
def test_names_that_change_hands_while_a_copy_is_made(
    tmp_path: Path, request: pytest.FixtureRequest, is_trusting: bool
) -> None:
    if is_trusting:
        request.getfixturevalue("trusting")
    volume, layer = tmp_path / "volume", ""
    random = Random(1)  # noqa: S311 - the same changes each time
    folders = [volume / each for each in ("a", "b", "c/d", "e/f/g")]
    files = [folder / f"file{number}" for folder in folders for number in range(20)]
    for folder in folders:
        folder.mkdir(parents=True)
    for number, file in enumerate(files):
        if number % 3:
            file.hardlink_to(random.choice(files[:number]))
        else:
            file.write_text(f"file {number}\n")
    for _ in range(30):
        layer = str(copied(tmp_path, volume, layer, partial(change_at_random, [*files, *folders], random)))
        assert without_names(content(Path(layer, "tree"))) == without_names(content(volume))
        assert names_by_file(Path(layer, "tree")) == names_by_file(volume)


class Watch:
    """Counts what this process asks of the system, in a block: a hook cannot be taken back."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.is_on = False
        sys.addaudithook(self._note)

    def _note(self, event: str, _: object) -> None:
        if self.is_on and event.startswith(("os.", "open")):
            self.counts[event] += 1


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("depth", [1, 100])
def test_second_pass_only_looks_at_what_has_not_changed(roomy: Path, depth: int) -> None:
    """One opening and one listing a folder, wherever it lies, and nothing for a file but a look."""
    tree, innermost = nest(roomy / "source", b"d", depth)
    for number in range(300):
        write(innermost, b"file%d" % number, b"old")
    write(innermost, b"changed", b"old")
    copy = TreeCopy(str(roomy / "source"), str(roomy / "layer"))
    copy.mark_drained()
    copy.first_pass()
    write(innermost, b"changed", b"new")
    watch = Watch()
    watch.is_on = True
    copy.second_pass()
    watch.is_on = False
    copy.close()
    tree.close()
    assert watch.counts.pop("open") <= 2 * depth + 10  # of the source, and of the copy on the way to what has changed
    assert watch.counts.pop("os.scandir") <= depth + 3
    assert watch.counts.total() <= 10, watch.counts


class CachedCopy(TreeCopy):
    """A copy on a network client that has a file's status in its cache from before another machine wrote to it."""

    cached: os.stat_result

    def _list(self, folder: CopiedFolder) -> tuple[os.stat_result, list[tuple[str, os.stat_result]]]:
        status, entries = super()._list(folder)
        cached = self.cached
        return status, [(name, cached if entry.st_ino == cached.st_ino else entry) for name, entry in entries]


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("is_live", [True, False])
def test_file_is_not_linked_by_a_status_from_a_clients_cache(roomy: Path, is_live: bool) -> None:
    volume = roomy / "volume"
    volume.mkdir()
    for name in ("written", "same"):
        (volume / name).write_text("old")
    previous = copied(roomy, volume)
    cached = (volume / "written").stat()
    (volume / "written").write_text("new")
    copy = CachedCopy(str(volume), str(roomy / "next"), str(previous))
    copy.cached = cached
    try:
        if is_live:
            copy.mark_drained()
            copy.first_pass()
        copy.second_pass()
        copy.complete()
    finally:
        copy.close()
    assert (roomy / "next/tree/written").read_text() == "new"
    assert (roomy / "next/tree/same").samefile(previous / "tree/same")


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("ends", [False, True], ids=["all-answer", "one-ends"])
def test_processes_that_look_together_miss_nothing(roomy: Path, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    monkeypatch.setattr(copied_folders, "FILES_PER_PROCESS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(3))
    source = roomy / "source"
    for name in "abcdef":
        (source / name).mkdir(parents=True)
        for number in range(5):
            (source / name / f"file{number}").write_text("old")

    class Failing(TreeCopy):
        def second_pass(self) -> None:
            assert self._lookers is not None
            others = [process for _, process, *_ in self._lookers._others]
            assert len(others) == 2
            if ends:
                os.kill(others[0], signal.SIGKILL)
                os.waitid(os.P_PID, others[0], os.WEXITED | os.WNOWAIT)
            super().second_pass()

    copy = Failing(str(source), str(roomy / "layer"))
    copy.mark_drained()
    copy.first_pass()
    for name in "abcdef":
        (source / name / "file0").write_text("changed")
        (source / name / "file1").unlink()
        (source / name / "new").write_text("new")
    copy.second_pass()
    copy.complete()
    copy.close()
    assert content(roomy / "layer/tree") == content(source)
