"""Trees that are deeper, and paths that are longer, than system calls and Python take at once."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles.walk import Tree, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = 2500
NAME = b"a-folder-with-a-name"


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A chain of folders whose path is longer than 50,000 bytes, with a file at its end."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir(NAME, dir_fd=descriptor)
        inner = os.open(NAME, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open(b"end", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    yield tmp_path
    with Tree(tmp_path) as tree:
        for entry in reversed([*walk(tree.root)]):
            (os.rmdir if entry.is_folder else os.unlink)(entry.name, dir_fd=entry.folder.descriptor())


def descriptors() -> int:
    gc.collect()  # files that earlier tests left open are closed now, not in between
    return len([*Path("/proc/self/fd").iterdir()])


def test_deep_tree_is_walked_with_few_descriptors(deep: Path) -> None:
    before = descriptors()
    with Tree(deep, most_open=2) as tree:
        entries = [*walk(tree.root)]
        assert descriptors() <= before + 3
    assert len(entries) == DEPTH + 1
    assert entries[-1].path == b"/".join([NAME] * DEPTH + [b"end"])
    assert descriptors() == before


def test_closed_folder_is_opened_anew(deep: Path) -> None:
    with Tree(deep) as tree:
        entries = [*walk(tree.root)]
        assert entries[0].folder.status(NAME) is not None
        assert entries[-1].folder.status(b"end") is not None
        assert os.path.lexists(entries[-1].folder.short_path(b"end"))


def test_link_in_the_place_of_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    with Tree(tmp_path) as tree:
        folder = tree.root.folder(b"folder")
        (tmp_path / "folder").rmdir()
        (tmp_path / "folder").symlink_to("other")
        with pytest.raises(NotADirectoryError) as found:
            folder.descriptor()
        assert found.value.filename == b"folder"


def test_entries_that_vanish_are_left_out_unless_the_tree_is_steady(tmp_path: Path) -> None:
    def vanishing(*, is_steady: bool) -> list[bytes]:
        for name in ("one", "two"):
            (tmp_path / name).mkdir(exist_ok=True)
        with Tree(tmp_path) as tree:
            found = []
            for entry in walk(tree.root, is_steady=is_steady):
                found.append(entry.path)
                (tmp_path / os.fsdecode(entry.name)).rmdir()
            return found

    assert sorted(vanishing(is_steady=False)) == [b"one", b"two"]
    with pytest.raises(FileNotFoundError):
        vanishing(is_steady=True)


def test_listing_goes_on_when_the_tree_closes_its_folder(tmp_path: Path) -> None:
    (tmp_path / "listed").mkdir()
    for name in ("one", "two", "three"):
        (tmp_path / "listed" / name).touch()
    (tmp_path / "1/2/3/4").mkdir(parents=True)
    with Tree(tmp_path, most_open=2) as tree:
        others = [tree.root.folder(b"1")]
        for inner in (b"2", b"3", b"4"):
            others.append(others[-1].folder(inner))
        sizes = []
        for entry in tree.root.folder(b"listed").entries():
            for folder in others:
                folder.descriptor()
            sizes.append(entry.stat(follow_symlinks=False).st_size)
    assert sizes == [0, 0, 0]
