"""Disk space of sessions: the sums that a walk through everything gives, from layers that are walked once."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from broker.names import new_id
from broker.volumes import inodes, sizes
from broker.volumes.inodes import INODES
from broker.volumes.layers import Layers
from broker.volumes.record import Handover
from broker.volumes.storage import Storage
from tests.volumes.act import Actor
from tests.volumes.filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

FILES = 40
SMALLEST_FILE = 16 * 1024
"""Bytes: more than any file takes that Berth keeps beside a layer here."""
Disk = dict[tuple[int, int], tuple[int, bool]]
"""Blocks, and whether it is a file, by device and inode."""


@pytest.fixture(params=["overlay-ext4", "overlay-xfs", "overlay-btrfs", "reflink-xfs", "plain-ext4"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Actor]]:
    """A driver, and a user's directory on a file system that it is made for."""
    driver, _, kind = request.param.partition("-")
    with mounted(kind, tmp_path) as found:
        (found.path / "user").mkdir(mode=0o700)
        yield driver, Actor(found.path / "user")


def on_disk(folder: Path) -> Disk:
    """Walk through everything below a folder."""
    found: Disk = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            status = os.lstat(f"{parent}/{name}")
            counts = not stat.S_ISDIR(status.st_mode) and name != INODES
            found[status.st_dev, status.st_ino] = (status.st_blocks, counts)
    return found


def walked(actor: Actor, session: str) -> dict[str, Any]:
    """Return the answer that `size` has to give, by its definition; without the free space."""
    storage = Storage(actor.root)
    record = actor.record(session)
    layers = {layer: on_disk(storage.layers.path(layer)) for layer in storage.layers.all()}

    def joined(names: Iterable[str]) -> Disk:
        return {inode: entry for name in names for inode, entry in layers.get(name, {}).items()}

    parts = {what: {volume.top, *volume.layers} for what, volume in (("home", record.home), ("system", record.system))}
    parts |= {f"snapshot {each.number}": {*each.home, *each.system} for each in record.snapshots}
    named = {other: found.named_layers() for other, found in storage.records()}
    lines = []
    for what, part in parts.items():
        beside = [layers for name, layers in parts.items() if name != what]
        others = set[str]().union(*beside, *(named[other] for other in named if other != session))
        others |= record.named_layers() - set[str]().union(*parts.values())
        whole = joined(part)
        own = [blocks for inode, (blocks, _) in whole.items() if inode not in joined(others)]
        lines.append({
            "what": what,
            "own": sum(own) * 512,
            "total": sum(blocks for blocks, _ in whole.values()) * 512,
            "files": sum(counts for _, counts in whole.values()),
        })  # fmt: skip
    return {"lines": lines, "bytes": sum(blocks for blocks, _ in joined(named[session]).values()) * 512}


def fill(folder: Path, name: str) -> None:
    """Make files, some with names within the same folder."""
    (folder / name).mkdir()
    for number in range(FILES):
        (folder / name / str(number)).write_bytes(os.urandom(1000 * number))
    (folder / name / "again").hardlink_to(folder / name / "1")
    (folder / name / "link").symlink_to("1")


def test_answer_is_that_of_a_walk_through_everything(ground: tuple[str, Actor]) -> None:
    driver, actor = ground
    session = actor.make(driver)
    (actor.session(session) / "run").mkdir()

    def check() -> None:
        first = actor("size", session=session)
        os.sync()
        wanted = walked(actor, session)
        again = actor("size", session=session)
        assert {name: again[name] for name in wanted} == wanted
        assert [line["files"] for line in first["lines"]] == [line["files"] for line in again["lines"]]
        own_files = len(actor.layers()) * SMALLEST_FILE  # which are written out only now
        assert abs(first["bytes"] - again["bytes"]) <= own_files
        once = on_disk(actor.root / "layers")
        tops = {(status.st_dev, status.st_ino) for each in Storage(actor.root).layers.all()
                if (status := (actor.root / "layers" / each).stat())}  # fmt: skip
        assert actor("usage")["bytes"] == sum(blocks for inode, (blocks, _) in once.items() if inode not in tops) * 512

    def operation(verb: str, **request: Any) -> None:  # noqa: ANN401 - JSON
        os.sync()  # a file system may change what a file takes when it writes it out
        actor(verb, session=session, operation=new_id(), **request)
        check()

    fill(actor.top(session), "one")
    operation("snapshot")
    fill(actor.top(session), "two")
    operation("copy", job_id=1)
    (actor.top(session) / "two/3").write_text("changed")
    operation("copy", job_id=1)  # links what has not changed
    operation("rollback", snapshot=1)
    fill(actor.top(session), "three")
    operation("snapshot")
    actor("clone", session=(clone := new_id()), operation=new_id(), source=session, snapshot=2)
    check()
    actor("forget", session=session, snapshot=3)
    check()
    actor("trash", session=clone)
    check()


def test_links_of_a_joined_layer_count_once(actor: Actor, image: dict[str, Any]) -> None:
    session = actor.make("overlay")
    for name in ("one", "two", "three"):
        fill(actor.top(session), name)
        actor("snapshot", session=session, operation=new_id())
        actor("size", session=session)  # what layers have is kept while each file has one layer only
    os.sync()
    actor("flatten", session=session, operation=new_id(), **image)
    actor("size", session=session)
    os.sync()
    answer, wanted = actor("size", session=session), walked(actor, session)
    assert {name: answer[name] for name in wanted} == wanted


@pytest.fixture
def image(tmp_path: Path) -> dict[str, Any]:
    """An image's squashfs with nothing in it, as requests name it."""
    (tmp_path / "empty").mkdir()
    command = ["mksquashfs", f"{tmp_path}/empty", f"{tmp_path}/squashfs", "-quiet", "-no-progress"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return {"image": str(tmp_path / "squashfs"), "offset": 0}


def _layers_read(act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the number of folders that `act` lists."""
    count = 0
    real = os.scandir

    def listing(path: int) -> Any:  # noqa: ANN401 - as os.scandir
        nonlocal count
        count += 1
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", listing)
        act()
    return count


def _many(actor: Actor, layers: int) -> str:
    session = actor.make("overlay")
    for number in range(layers):
        fill(actor.top(session), str(number))
        for inner in range(20):
            (actor.top(session) / str(number) / f"folder{inner}").mkdir()
        actor("snapshot", session=session, operation=new_id())
    return session


def test_each_layer_is_walked_once_and_then_never(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    session = _many(actor, 5)
    storage = Storage(actor.root)
    folders = sum(len(found[1]) for found in os.walk(actor.root / "layers"))
    assert _layers_read(lambda: sizes.session_size(storage, session), monkeypatch) <= folders + 1
    again = _layers_read(lambda: sizes.session_size(storage, session), monkeypatch)
    assert again <= 4 * len(actor.layers())
    assert _layers_read(lambda: sizes.user_usage(storage), monkeypatch) == again


def _truncate(file: Path) -> None:
    os.truncate(file, 100)


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _endless(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def _terabyte(file: Path) -> None:
    os.truncate(file, 2**40)


def _of_another(file: Path) -> None:
    other = next(path for path in file.parents[1].glob(f"*/{INODES}") if path != file)
    file.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [_truncate, _flip, _empty, _pipe, _endless, _terabyte, _of_another])
def test_damaged_file_is_taken_for_none(actor: Actor, damage: Callable[[Path], None]) -> None:
    session = _many(actor, 3)
    wanted = actor("size", session=session)["lines"]
    file = actor.root / "layers" / actor.record(session).home.layers[1] / INODES
    damage(file)
    assert [line["files"] for line in actor("size", session=session)["lines"]] == [line["files"] for line in wanted]
    assert actor("usage")["bytes"] > 0


def test_numbers_that_a_user_made_up_break_nothing(actor: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    session = _many(actor, 2)
    real = inodes.write_inodes
    monkeypatch.setattr(inodes, "write_inodes", lambda layer, key, _: real(layer, key, inodes.Inodes(files=2**63)))
    storage = Storage(actor.root)
    sizes.session_size(storage, session)
    answer = actor("size", session=session)
    assert all(0 <= line["own"] <= line["total"] for line in answer["lines"])


def test_layer_that_was_put_back_is_counted_anew(actor: Actor) -> None:
    session = _many(actor, 2)
    wanted = actor("size", session=session)
    layer = actor.root / "layers" / actor.record(session).home.layers[0]
    shutil.copytree(layer, layer.with_name("copy"), symlinks=True)  # other inodes
    shutil.rmtree(layer)
    layer.with_name("copy").rename(layer)
    os.sync()
    answer, walk = actor("size", session=session), walked(actor, session)
    assert answer["lines"] == walk["lines"]
    assert len(answer["lines"]) == len(wanted["lines"])


def test_what_is_written_to_is_never_kept(actor: Actor) -> None:
    session = _many(actor, 1)
    record = actor.record(session)
    layers = Layers(actor.root / "layers")
    tops = {kind: layers.new_top(0o700) for kind in ("home", "system")}
    fields = {"profile": "base", "version": "1", "digest": ""}
    changed = replace(record, handover=Handover(submission=2, **tops, **fields))
    (actor.session(session) / "volumes.json").write_text(changed.text())
    actor("size", session=session)
    actor("usage")
    kept = {path.parent.name for path in layers.root.glob(f"*/{INODES}")}
    assert kept == {*record.home.layers}
    assert actor("verify", session=session)["recorded"] == 1
    assert not any((layers.path(top) / "sums").exists() for top in tops.values())


def test_gc_counts_what_is_linked_from_elsewhere_for_nothing(actor: Actor) -> None:
    session = actor.make("overlay")
    (actor.session(session) / "run").mkdir()
    (actor.top(session) / "shared").write_bytes(os.urandom(500_000))
    (actor.top(session) / "changed").write_bytes(os.urandom(300_000))
    os.sync()
    actor("copy", session=session, operation=new_id(), job_id=1)
    (actor.top(session) / "changed").write_bytes(os.urandom(200_000))
    actor("copy", session=session, operation=new_id(), job_id=1)
    actor("forget", session=session, snapshot=1)
    planned = actor("gc", dry_run=True)
    assert len(planned["layers"]) == 1
    assert actor("gc") == planned
