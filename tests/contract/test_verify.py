"""Checksums of layers: files with holes, checksums of earlier versions, and what cannot be read."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from broker.names import new_id
from broker.volumes import checksums, verification
from broker.volumes.storage import Storage
from profiles.walk import Tree
from tests.volumes.act import Actor
from tests.volumes.filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZE = 2**25
HUGE = 2**41
"""Bytes of a file that takes more than a day to read."""


@pytest.fixture(params=["overlay-ext4", "overlay-xfs", "overlay-btrfs", "reflink-xfs"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kept]:
    """A snapshot of a home with files of several kinds, on each file system that keeps layers as trees."""
    driver, _, kind = request.param.partition("-")
    with mounted(kind, tmp_path) as found:
        (found.path / "user").mkdir(mode=0o700)
        actor = Actor(found.path / "user")
        session = actor.make(driver)
        top = actor.top(session)
        _write(top / "sparse", SIZE, {0: b"begin", SIZE // 2 + 1: b"x" * 200_000, SIZE - 3: b"end"})
        _write(top / "hole", 2**21, {})
        _write(top / "dense", 300_000, {0: bytes(100_000) + b"x" * 200_000})
        (top / "link").symlink_to("dense")
        actor("snapshot", session=session, operation=new_id())
        layer = actor.root / "layers" / actor.record(session).snapshots[0].home[-1]
        yield Kept(actor, session, layer)


@dataclass(frozen=True, slots=True)
class Kept:
    """A session with one snapshot."""

    actor: Actor
    session: str
    layer: Path

    def problems(self) -> list[str]:
        found: list[str] = self.actor("verify", session=self.session)["problems"]
        return [problem.partition(": ")[2] for problem in found]

    def rewrite(self, name: str, change: Callable[[Path], object]) -> None:
        """Change a file of the layer, and leave its time as it is."""
        path = self.layer / "tree" / name
        when = path.lstat().st_mtime_ns
        change(path)
        os.utime(path, ns=(when, when))
        os.sync()


def _write(path: Path, size: int, data: dict[int, bytes]) -> None:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, content in data.items():
            os.pwrite(file.fileno(), content, offset)
        os.fsync(file.fileno())


def _fill(path: Path) -> None:
    """Write zeros where a file has holes."""
    subprocess.run(["cp", "--sparse=never", "--preserve=mode", path, f"{path}.full"], check=True)
    os.rename(f"{path}.full", path)  # noqa: PTH104 - as it is


def _dig(path: Path) -> None:
    """Make holes of zeros."""
    subprocess.run(["cp", "--sparse=always", "--preserve=mode", path, f"{path}.dug"], check=True)
    os.rename(f"{path}.dug", path)  # noqa: PTH104 - as it is


def _earlier_sum(path: Path) -> str:
    """The checksum that earlier versions wrote of every file."""
    status = path.lstat()
    digest = hashlib.sha256(f"{status.st_mode:o} {status.st_rdev} ".encode())
    if path.is_symlink():
        digest.update(os.fsencode(path.readlink()))
    elif path.is_file():
        digest.update(str(status.st_mtime_ns).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def test_holes_take_no_time(kept: Kept) -> None:
    kept.actor("rollback", session=kept.session, operation=new_id(), snapshot=1)
    _write(kept.actor.top(kept.session) / "huge", HUGE, {0: b"x", HUGE // 2: b"x", HUGE - 1: b"x"})
    kept.actor("snapshot", session=kept.session, operation=new_id())
    assert kept.problems() == []
    assert kept.problems() == []


def test_place_of_holes_is_no_content(kept: Kept) -> None:
    assert kept.problems() == []
    for name in ("hole", "sparse"):
        kept.rewrite(name, _fill)
    kept.rewrite("dense", _dig)
    assert kept.problems() == []


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda path: _overwrite(path, SIZE // 2 + 100_000, b"y"),
    "a byte of a hole": lambda path: _overwrite(path, SIZE // 4, b"y"),
    "data into zeros": lambda path: _overwrite(path, 0, bytes(5)),
    "its place": lambda path: _overwrite(path, 0, bytes(2**16) + b"begin"),
    "its length": lambda path: os.truncate(path, SIZE + 1),
}


def _overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), content, offset)


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_a_file_with_holes_is_noticed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "sparse"
    _write(path, SIZE, {0: b"begin", SIZE // 2 + 1: b"x" * 200_000, SIZE - 3: b"end"})
    before = _sum(path)
    assert before.startswith(checksums.SPARSE_PREFIX)
    when = path.stat().st_mtime_ns
    CHANGES[change](path)
    os.utime(path, ns=(when, when))
    assert _sum(path) != before


def _sum(path: Path) -> bytes:
    with Tree(path.parent) as tree:
        return checksums.checksum(tree.root, os.fsencode(path.name), path.lstat())


def test_checksums_of_earlier_versions_stay_valid(kept: Kept) -> None:
    tree = kept.layer / "tree"
    records = [f"{_earlier_sum(path)} {path.relative_to(tree)}\0" for path in sorted(tree.rglob("*"))]
    (kept.layer / "sums").write_text("".join(records))
    answer = kept.actor("verify", session=kept.session)
    assert (answer["problems"], answer["recorded"]) == ([], answer["layers"] - 1)
    kept.rewrite("dense", _dig)
    assert kept.problems() == []
    kept.rewrite("sparse", lambda path: _overwrite(path, SIZE // 4, b"y"))
    assert kept.problems() == ["sparse: has changed"]


def test_what_cannot_be_read_is_named_and_all_else_is_compared(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def opening(path: object, *words: Any, **more: Any) -> int:  # noqa: ANN401 - as os.open
        if path == b"dense":
            raise OSError(5, "Input/output error")
        return real(path, *words, **more)  # type: ignore[arg-type]

    def verify() -> dict[str, Any]:
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", opening)
            return verification.verify(Storage(kept.actor.root), kept.session)

    answer = verify()
    assert [each.partition(": ")[2] for each in answer["problems"]] == ["dense: cannot be read: Input/output error"]
    assert answer["recorded"] == answer["layers"] - 1
    assert kept.problems() == []  # recorded now
    kept.rewrite("hole", lambda path: _overwrite(path, 7, b"y"))
    assert [each.partition(": ")[2] for each in verify()["problems"]] == [
        "dense: cannot be read: Input/output error",
        "hole: has changed",
    ]
