"""Large files that threads copy: all of them, with their attributes, holes and owners, and every failure is raised."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.volumes import content, copy_threads, entry_copy, live_copy
from broker.volumes.live_copy import TreeCopy
from tests.volumes import tree_content

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE = content.SMALL_BYTES * 3
FILES = 60


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Files on both sides of the limit, in three folders, with holes at the beginning, in the middle and at the end."""
    root = tmp_path / "source"
    for number in range(FILES):
        path = root / f"folder{number % 3}" / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        size = LARGE if number % 5 else content.SMALL_BYTES
        with path.open("wb") as file:
            file.seek((number % 4) * LARGE)
            file.write(os.urandom(size + number))
            file.truncate(file.tell() + (number % 2) * LARGE)
        os.setxattr(path, "user.number", str(number).encode())
        path.chmod(0o600 | number % 8)
        os.utime(path, ns=(number, number * 10**9))
    return root


def threads_of_copies() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == copy_threads.THREAD_NAME]


def copied(source: Path, target: Path, previous: str = "", *, squash: bool = False) -> Path:
    copy = TreeCopy(str(source), str(target), previous, squash=squash)
    try:
        copy.prepare()
        copy.mark_drained()
        copy.first_pass()
        assert not threads_of_copies()  # a child process of the next step would have none of the threads
        copy.second_pass()
        copy.complete()
    finally:
        copy.close()
    return target


def test_copy_has_all_of_each_file(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []
    copy_extents = content.copy_extents

    def counting(source: int, target: int, status: os.stat_result) -> None:
        running.append(len(threads_of_copies()))
        copy_extents(source, target, status)

    monkeypatch.setattr(entry_copy, "copy_extents", counting)
    target = copied(source, tmp_path / "layer")
    assert max(running) >= 1  # so that the absence of such threads means something
    assert tree_content.content(target / "tree") == tree_content.content(source)
    for path in source.rglob("*"):
        made = target / "tree" / path.relative_to(source)
        assert path.is_dir() or os.getxattr(made, "user.number") == path.name.encode()
        assert made.stat().st_blocks <= path.stat().st_blocks + 8 * 2


@pytest.mark.parametrize("count", [0, 1, 4])
def test_any_number_of_threads_gives_the_same_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Without any, the user has as many processes as allowed."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    if count:
        monkeypatch.setattr(copy_threads, "MIN_THREADS", count)
        monkeypatch.setattr(copy_threads, "MAX_THREADS", count)
    else:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    target = copied(source, tmp_path / "layer")
    assert tree_content.content(target / "tree") == tree_content.content(source)


def test_unchanged_large_files_are_linked_by_the_next_copy(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof of a file that a thread has copied is noted."""
    monkeypatch.setattr(entry_copy, "RACY_NS", 0)
    monkeypatch.setattr(live_copy, "shows_stores", lambda _: True)
    first = copied(source, tmp_path / "layer1")
    (source / "folder1/1").write_bytes(bytes(LARGE))
    second = copied(source, tmp_path / "layer2", str(first))
    same = {
        str(path.relative_to(second / "tree"))
        for path in second.joinpath("tree").rglob("*")
        if path.is_file() and path.samefile(first / "tree" / path.relative_to(second / "tree"))
    }
    assert {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()} - same == {"folder1/1"}


def test_owner_of_a_large_file_is_recorded(tmp_path: Path) -> None:
    large = tmp_path / "source/large"
    large.parent.mkdir()
    large.write_bytes(bytes(LARGE))
    large.chmod(0o4755)
    target = copied(large.parent, tmp_path / "layer", squash=True)
    assert b" 4755 large\0" in (target / "owners").read_bytes()


def failing(number: int) -> Callable[[int, int, os.stat_result], None]:
    def copy_extents(_source: int, _target: int, _status: os.stat_result) -> None:
        raise OSError(number, os.strerror(number))

    return copy_extents


def test_failure_in_a_thread_ends_the_copy_and_names_the_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_copy, "copy_extents", failing(errno.ENOSPC))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="No space left") as raised:
        copied(source, tmp_path / "layer")
    assert Path(str(raised.value.filename)).name in {str(number) for number in range(FILES)}
    for thread in threads_of_copies():
        thread.join()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_file_that_changes_under_a_thread_is_copied_by_the_second_pass(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = TreeCopy(str(source), str(tmp_path / "layer"))
    try:
        with monkeypatch.context() as patched:
            patched.setattr(entry_copy, "copy_extents", failing(errno.ESTALE))
            copy.first_pass()
        copy.second_pass()
        copy.complete()
    finally:
        copy.close()
    assert tree_content.content(tmp_path / "layer/tree") == tree_content.content(source)
