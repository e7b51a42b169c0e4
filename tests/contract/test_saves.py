"""Saves of a system volume on the node's disk: whole or not at all, and never an older one over a newer one."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.names import new_id
from broker.volumes import files, garbage, inspection, live_snapshot, operations, record, saves, verification
from broker.volumes.copy_archive import copy_archive
from broker.volumes.errors import VolumeError
from broker.volumes.files import file_lock
from broker.volumes.image import ImageFiles
from broker.volumes.operations import SnapshotNote
from broker.volumes.storage import Storage
from tests.deadlines import TEST_DEADLINE_S
from tests.lab_cluster import wait_for
from tests.volumes.filesystems import mounted
from tests.volumes.running import IMAGE, Running

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = 300 * 2**20
POINTS = ["save.packed", "save.noted"]


@pytest.fixture
def running(tmp_path: Path) -> Running:
    return Running.on(tmp_path, "plain", on_node=True)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Running]:
    """On a file system with little room."""
    with mounted("ext4", tmp_path, size=SMALL) as found:
        yield Running.on(found.path, "plain", on_node=True)


def made(folder: Path, **files: bytes) -> Path:
    """Make the top of a job on its node's disk, with these files; return its path."""
    top = folder / new_id()
    (top / "tree").mkdir(parents=True)
    for name, content in files.items():
        (top / "tree" / name).write_bytes(content)
    return top


def shown(running: Running, session: str) -> set[str]:
    """The files that a session's system has beside the image's."""
    return {*running.change(session, "system")}


def by_program(*words: object, crash_at: str = "") -> subprocess.CompletedProcess[str]:
    """Run the archive as a job does, dying at a point."""
    command = [sys.executable, "-I", *map(str, words)]
    return subprocess.run(
        command, env={"PATH": "/usr/bin:/bin:/usr/sbin", "BERTH_CRASH_AT": crash_at}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_step_of_a_save_leaves_the_last_one_or_the_new_one(
    running: Running, tmp_path: Path, point: str
) -> None:
    session = running.create()
    top, generation = running.begin_job(session)
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    program = tmp_path / "copying.pyz"
    program.write_bytes(copy_archive())
    number = ".".join(map(str, generation))
    new = made(tmp_path, first=b"1", second=b"2")
    done = by_program(program, "save", top, number, new, crash_at=point)
    assert done.returncode == -signal.SIGKILL
    assert shown(running, session) == ({"first"} if point == "save.packed" else {"first", "second"})
    garbage.collect_garbage(running.storage)
    assert {*running.storage.layers.all()} == running.record(session).named_layers()
    number = f"{next(running.submissions)}.0"
    done = by_program(program, "claim", top, number)
    assert done.stdout.split() == [*reversed(record.read_save(top).below)]
    done = by_program(program, "save", top, number, made(tmp_path, third=b"3"))
    assert (done.returncode, done.stderr) == (0, "")
    assert shown(running, session) >= {"first", "third"}
    taken = operations.snapshot(running.storage, session, new_id(), IMAGE, SnapshotNote())["snapshot"]
    assert len(taken["system"]) == 2
    assert verification.verify(running.storage, session)["problems"] == []


def test_an_older_job_is_told_so_and_changes_nothing(running: Running, tmp_path: Path) -> None:
    session = running.create()
    top, older = running.begin_job(session)
    saves.save_changes(top, older, made(tmp_path, first=b"1"))
    newer = (older[0], 1)  # the same job, requeued
    assert len(saves.claim_top(top, newer).below) == 1
    before = record.read_save(top)
    with pytest.raises(VolumeError, match="already has the session's system") as refused:
        saves.claim_top(top, older)
    assert refused.value.kind == "conflict"
    with pytest.raises(VolumeError, match="already has the session's system"):
        saves.save_changes(top, older, made(tmp_path, late=b"0"))
    assert record.read_save(top) == before
    assert {*running.storage.layers.all()} == running.record(session).named_layers()
    saves.save_changes(top, newer, made(tmp_path, second=b"2"))
    assert shown(running, session) == {"first", "second"}


def test_many_jobs_without_a_stop_leave_few_layers(running: Running) -> None:
    session = running.create()
    for number in range(saves.MAX_SAVES + 4):
        running.change(session, "system", number, 3)
        before = shown(running, session)
    assert len(running.record(session).system.saved) == saves.MAX_SAVES
    garbage.collect_garbage(running.storage)
    assert shown(running, session) == before
    operations.snapshot(running.storage, session, new_id(), IMAGE, SnapshotNote())
    operations.flatten(running.storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    assert shown(running, session) == before
    assert len(running.record(session).system.layers) == 1


def test_layers_that_could_not_be_removed_go_with_the_next_save(running: Running, tmp_path: Path) -> None:
    session = running.create()
    top, generation = running.begin_job(session)
    with files.file_lock(running.storage.lock, shared=True):  # an operation is under way
        for number in range(3):
            saves.save_changes(top, generation, made(tmp_path, first=b"%d" % number))
    assert len(running.storage.layers.all()) == 2 + 3
    saves.save_changes(top, generation, made(tmp_path, first=b"last"))
    assert {*running.storage.layers.all()} == running.record(session).named_layers()


def test_a_full_shared_file_system_costs_nothing_of_the_last_save(small: Running, tmp_path: Path) -> None:
    session = small.create()
    top, generation = small.begin_job(session)
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    with open("/dev/urandom", "rb") as source:  # noqa: PTH123 - a device
        large = made(tmp_path, first=b"1", large=source.read(SMALL))
    with pytest.raises(VolumeError) as refused:
        saves.save_changes(top, generation, large)
    assert refused.value.kind == "space"
    assert {*small.storage.layers.all()} == small.record(session).named_layers()
    assert shown(small, session) == {"first"}


def test_a_claim_needs_no_room(small: Running, tmp_path: Path) -> None:
    session = small.create()
    top, generation = small.begin_job(session)
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    ballast = small.storage.root / "ballast"
    for piece in (2**20, 4096, 512):
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while file.write(b"x" * piece):
                pass
        os.sync()  # which gives back what was set aside for more
    later = (next(small.submissions), 0)
    assert saves.claim_top(top, later).below == record.read_save(top).stack
    assert record.read_save(top).generation == generation, "there was room to note it"
    ballast.unlink()
    saves.save_changes(top, later, made(tmp_path, second=b"2"))
    assert shown(small, session) == {"first", "second"}


def test_a_job_that_begins_while_layers_are_joined_keeps_what_it_saves(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running.create()
    for name in ("first", "second"):
        top, generation = running.begin_job(session)
        saves.save_changes(top, generation, made(tmp_path, **{name: b"1"}))

    def one_more_job(point: str) -> None:
        if point == "flatten.joined":
            saves.save_changes(*running.begin_job(session), made(tmp_path, third=b"1"))

    monkeypatch.setattr(operations, "failpoint", one_more_job)
    with pytest.raises(VolumeError) as refused:
        operations.flatten(running.storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    assert refused.value.kind == "busy"
    monkeypatch.undo()
    assert shown(running, session) == {"first", "second", "third"}
    operations.flatten(running.storage, session, new_id(), digest=IMAGE.digest, below=running.below)
    assert len(running.record(session).system.layers) == 1
    assert shown(running, session) == {"first", "second", "third"}


def test_save_that_is_named_stays_when_the_file_system_fails_after_it(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running.create()
    top, generation = running.begin_job(session)
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    real = files.sync_path

    def fail(place: Path) -> None:
        if place == top:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(place)

    monkeypatch.setattr(record, "sync_path", fail)
    saves.save_changes(top, generation, made(tmp_path, second=b"2"))
    monkeypatch.undo()
    assert shown(running, session) == {"second"}
    assert running.record(session).named_layers() <= {*running.storage.layers.all()}
    saves.save_changes(*running.begin_job(session), made(tmp_path, third=b"3"))
    assert {*running.storage.layers.all()} == running.record(session).named_layers(), "what was left goes"


def test_end_of_the_job_ends_what_packs_and_leaves_nothing(running: Running, tmp_path: Path) -> None:
    session = running.create()
    top, generation = running.begin_job(session)
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    before = {*running.storage.layers.all()}
    program, packer, started = tmp_path / "copying.pyz", tmp_path / "bin/mksquashfs", tmp_path / "started"
    program.write_bytes(copy_archive())
    packer.parent.mkdir()
    packer.write_text(f"#!/bin/sh\necho $$ >{started}.new; mv {started}.new {started}; exec sleep {TEST_DEADLINE_S}\n")
    packer.chmod(0o755)
    words = [program, "save", top, ".".join(map(str, generation)), made(tmp_path, second=b"2")]
    process = subprocess.Popen(
        [sys.executable, "-I", *map(str, words)], env={"PATH": f"{packer.parent}:/usr/bin:/bin"}, stderr=subprocess.PIPE
    )
    wait_for(started.exists, what="the packer to start")
    process.terminate()
    _, said = process.communicate(timeout=TEST_DEADLINE_S)
    assert (process.returncode, said) == (saves.FAILED, b"the job ended before what has changed was packed\n")
    assert not Path("/proc", started.read_text().strip()).exists()
    assert {*running.storage.layers.all()} == before
    assert shown(running, session) == {"first"}


def test_snapshot_of_a_job_that_began_on_a_full_disk_has_all_of_it(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = running.create()
    top, generation = running.begin_job(session)
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    later = (next(running.submissions), 0)  # its claim was not noted

    def copied(_session: object, _job: int, *, home: str, system: str) -> live_snapshot.CopyOutcome:
        running.storage.layers.tree(home).mkdir()
        saves.save_copy(top, later, made(tmp_path, second=b"2"), system)
        return live_snapshot.CopyOutcome("frozen", 0.0)

    monkeypatch.setattr(live_snapshot, "_request_copy", copied)
    taken = live_snapshot.snapshot_running(
        running.storage, session, new_id(), job_id=1, image=IMAGE, note=SnapshotNote()
    )["snapshot"]
    assert list(taken["system"]) == list(record.read_save(top).stack)
    assert len(taken["system"]) == 2


def test_diff_during_a_save_reads_what_the_record_named(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer of the save before is removed with the next one."""
    session = running.create()
    top, generation = running.begin_job(session)
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    real = Storage.read_save_time

    def save_first(storage: Storage, session_id: str, found: record.Record) -> float | None:
        saves.save_changes(top, generation, made(tmp_path, second=b"2"))
        return real(storage, session_id, found)

    monkeypatch.setattr(Storage, "read_save_time", save_first)
    monkeypatch.setattr(ImageFiles, "_read", lambda _: set[str]())
    told = inspection.diff(running.storage, session, None, image=ImageFiles("image", 0))
    assert [each["path"] for each in told["files"] if each["volume"] == "system"] == ["first"]


@pytest.mark.parametrize("held", ["lock", "saved.lock"])
def test_lock_that_is_never_released_fails_a_save_with_a_message(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    session = running.create()
    top, generation = running.begin_job(session)
    monkeypatch.setattr(saves, "LOCK_WAIT_S", 0.3)
    before = {*running.storage.layers.all()}
    with file_lock({"lock": running.storage.lock, "saved.lock": top / "saved.lock"}[held]):
        with pytest.raises(VolumeError, match="another operation has") as refused:
            saves.save_changes(top, generation, made(tmp_path, first=b"1"))
        assert refused.value.kind == "busy"
    assert {*running.storage.layers.all()} == before
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    assert shown(running, session) == {"first"}


def test_lock_that_is_released_in_time_is_taken(running: Running, tmp_path: Path) -> None:
    session = running.create()
    top, generation = running.begin_job(session)
    held, released = threading.Event(), threading.Event()

    def hold() -> None:
        with file_lock(running.storage.lock):
            held.set()
            released.wait(TEST_DEADLINE_S)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(TEST_DEADLINE_S)
    threading.Timer(0.5, released.set).start()
    saves.save_changes(top, generation, made(tmp_path, first=b"1"))
    holder.join()
    assert shown(running, session) == {"first"}
