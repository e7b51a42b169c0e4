"""Copies of trees that are being written to: they hold every byte that was there when the writers were frozen."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from broker.volumes import entry_copy, live_copy
from broker.volumes.copy_archive import ARCHIVE, copy_archive
from tests.volumes import writer
from tests.volumes.changes import tree
from tests.volumes.filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.volumes.changes import Tree

LIMIT_S = 60
_names = itertools.count()


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(request.param, tmp_path_factory.mktemp("filesystem")) as found:
        yield found.path


@pytest.fixture
def room(disk: Path) -> Path:
    path = disk / str(next(_names))
    (path / "source").mkdir(parents=True)
    return path


class Freezer(Protocol):
    """Treats a session's processes as session.sh does."""

    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


@dataclass(slots=True)
class Standing:
    """Writers in this process: they write when a test says so, and what they have begun ends when they are frozen."""

    before_the_second_pass: Callable[[], object] = lambda: None
    at_the_next_freeze: Callable[[], object] = lambda: None

    def freeze(self) -> None:
        self.at_the_next_freeze()

    def thaw(self) -> None:
        pass


@dataclass(slots=True)
class Processes:
    """Writers that are stopped by signals."""

    pids: list[int]
    before_the_second_pass: Callable[[], object] = lambda: None

    def freeze(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + LIMIT_S
        while not all(map(_is_stopped, self.pids)):
            assert time.monotonic() < deadline, "a writer does not stop"
            time.sleep(0.001)

    def thaw(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGCONT)


def _is_stopped(pid: int) -> bool:
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) <= {"T", "Z"}


@dataclass(slots=True)
class Copies:
    """One copy after the other of `room/source`, each building on the one before."""

    room: Path
    writers: Standing | Processes
    made: list[Path] = field(default_factory=list)

    def make(self) -> tuple[Tree, Tree]:
        """Copy once more: what was there at the freeze, and what the copy holds."""
        frozen = self.copy(tree)
        return frozen, tree(self.made[-1] / "tree")

    def copy(self, look: Callable[[Path], Tree]) -> Tree:
        """Copy once more, and look at the source during the last freeze."""
        target = self.room / f"copy{len(self.made)}"
        previous = str(self.made[-1]) if self.made else ""
        program = self.room / ARCHIVE
        program.write_bytes(copy_archive())
        command = [sys.executable, "-I", str(program), "--drain", str(self.room / "source"), str(target), previous]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            frozen: Tree = {}
            while (word := process.stdout.readline().strip()) != "done":
                assert word in {"ready", "copied"}
                if word == "copied":
                    self.writers.before_the_second_pass()
                self.writers.freeze()
                frozen = look(self.room / "source")
                print("all", file=process.stdin, flush=True)
                assert process.stdout.readline().strip() in {"drained", "still"}
                self.writers.thaw()
        assert process.returncode == 0
        self.made.append(target)
        return frozen


def wait_until_old(path: Path) -> None:
    """Until a time stamp of a change now would differ from the file's, however coarse they are."""
    deadline = time.monotonic() + LIMIT_S
    while time.time_ns() - path.stat().st_ctime_ns <= entry_copy.RACY_NS * 1.1:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_store_into_dirty_page_is_in_this_copy_and_the_next(room: Path) -> None:
    mappings = []
    for name in ("plain", "linked", "renamed", "in a child"):
        path = room / "source" / name
        path.write_bytes(bytes(2 * mmap.PAGESIZE))
        with path.open("r+b") as file:
            mappings.append(mmap.mmap(file.fileno(), 0))
    (room / "source/linked").rename(room / "source/first")
    (room / "source/second").hardlink_to(room / "source/first")

    def store(value: bytes) -> None:
        for mapped in mappings[:-1]:
            mapped[: len(value)] = value

    orders, told = os.pipe()
    done, says = os.pipe()
    child = os.fork()
    if child == 0:
        while value := os.read(orders, 100):
            mappings[-1][: len(value)] = value
            os.write(says, b"x")
            if value == b"second":
                os._exit(0)

    def order(value: bytes) -> None:
        store(value)
        os.write(told, value)
        os.read(done, 1)

    order(b"first")
    wait_until_old(room / "source/renamed")
    copies = Copies(room, Standing())
    copies.writers.before_the_second_pass = lambda: order(b"second")
    frozen, copied = copies.make()
    assert copied == frozen
    os.waitpid(child, 0)
    copies.writers.before_the_second_pass = lambda: store(b"third")
    wait_until_old(room / "source/renamed")
    frozen, copied = copies.make()
    assert copied == frozen
    store(b"fourth")
    for mapped in mappings:
        mapped.flush()
        mapped.close()
    (room / "source/renamed").rename(room / "source/other")
    copies.writers.before_the_second_pass = lambda: None
    frozen, copied = copies.make()
    assert copied == frozen
    assert (copies.made[-1] / "tree/first").read_bytes().startswith(b"fourth")
    for descriptor in (orders, told, done, says):
        os.close(descriptor)


def test_room_for_a_file_with_many_names_is_that_of_one(room: Path) -> None:
    with (room / "source/file").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100 << 20)
    for number in range(120):  # thrice what the disk has
        (room / f"source/name{number}").hardlink_to(room / "source/file")
    copies = Copies(room, Standing())
    copies.copy(lambda _: {})
    assert (copies.made[0] / "tree/file").stat().st_nlink == 121


@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_names_beyond_the_limit_stay_names_of_one_file(room: Path) -> None:
    """The second copy cannot link the first one's file: ext4 allows 65,000 names."""
    (room / "source/names").mkdir()
    (room / "source/file").write_text("content")
    for number in range(32_600):
        (room / f"source/names/{number}").hardlink_to(room / "source/file")
    (room / "source/other").write_text("content")
    wait_until_old(room / "source/file")
    copies = Copies(room, Standing())
    for _ in range(2):
        copies.copy(lambda _: {})
        assert (copies.made[-1] / "tree/file").stat().st_nlink == 32_601
    first, second = ((copy / "tree/other").stat().st_ino for copy in copies.made)
    assert first == second


def test_write_that_lasts_longer_than_time_stamps_tell_is_whole(room: Path) -> None:
    """One system call changes the time of change once, at its beginning: here it waits for its own memory."""
    path = room / "source/file"
    path.write_bytes(b"old " * mmap.PAGESIZE)
    fd = os.open(path, os.O_WRONLY)
    with blocked_write(fd, b"new " * mmap.PAGESIZE) as release:
        wait_until_old(path)
        copies = Copies(room, Standing(at_the_next_freeze=release))
        frozen, copied = copies.make()
    os.close(fd)
    assert path.read_bytes().startswith(b"new ")
    assert copied == frozen


@contextlib.contextmanager
def blocked_write(fd: int, data: bytes) -> Iterator[Callable[[], None]]:
    """A thread in write(2) whose data is missing (userfaultfd(2)) until the function is called; that waits for its end.

    The first page is there.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fault = libc.syscall(323, os.O_CLOEXEC)
    assert fault >= 0, os.strerror(ctypes.get_errno())
    api = (ctypes.c_uint64 * 3)(0xAA, 0, 0)
    assert libc.ioctl(fault, ctypes.c_ulong(0xC018AA3F), api) == 0
    length = len(data)
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory[: mmap.PAGESIZE] = data[: mmap.PAGESIZE]
    register = (ctypes.c_uint64 * 4)(begin + mmap.PAGESIZE, length - mmap.PAGESIZE, 1, 0)
    assert libc.ioctl(fault, ctypes.c_ulong(0xC020AA00), register) == 0
    write = threading.Thread(target=libc.write, args=(fd, ctypes.c_void_p(begin), ctypes.c_size_t(length)))
    before = os.fstat(fd).st_ctime_ns
    write.start()

    def release() -> None:
        source = ctypes.create_string_buffer(data[mmap.PAGESIZE :])
        copy = (ctypes.c_uint64 * 5)(begin + mmap.PAGESIZE, ctypes.addressof(source), length - mmap.PAGESIZE, 0, 0)
        libc.ioctl(fault, ctypes.c_ulong(0xC028AA03), copy)  # a second time: it is there already
        write.join(LIMIT_S)
        assert not write.is_alive()

    deadline = time.monotonic() + LIMIT_S
    while os.fstat(fd).st_ctime_ns == before:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    try:
        yield release
    finally:
        release()
        os.close(fault)


def _equal_copies(room: Path, seed: int, count: int) -> None:
    source = random.Random(seed)  # noqa: S311 - a failure has to come again
    command = [sys.executable, "-I", writer.__file__, str(room / "source"), str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing\n"
            copies = Copies(room, Processes([process.pid]))
            for _ in range(count):
                time.sleep(source.random() * 2.5)  # some files are older than RACY_NS at a copy, and some are not
                frozen, copied = copies.make()
                assert copied == frozen
        finally:
            process.kill()


def test_copies_under_writers_equal_the_state_at_the_freeze(room: Path) -> None:
    _equal_copies(room, seed=int.from_bytes(os.urandom(3)), count=4)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_many_copies_under_writers_equal_the_state_at_the_freeze(room: Path, seed: int) -> None:
    _equal_copies(room, seed, count=40)


def test_files_of_one_number_in_two_subvolumes_stay_two(tmp_path: Path) -> None:
    """Users may make subvolumes in a home on btrfs; each counts its inodes from the same number on."""
    with mounted("btrfs", tmp_path) as disk:
        source, target = disk.path / "source", disk.path / "target"
        source.mkdir()
        for name in ("one", "other"):
            command = ["btrfs", "subvolume", "create", str(source / name)]
            subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_S)
            (source / name / "file").write_text(name)
            (source / name / "second").hardlink_to(source / name / "file")
        live_copy.copy_tree(str(source), str(target))
        for name in ("one", "other"):
            copied = target / "tree" / name
            assert [(copied / each).read_text() for each in ("file", "second")] == [name, name]
            assert (copied / "file").samefile(copied / "second")
