"""Counting, verifying and removing trees with a path above PATH_MAX or thousands of folders within each other."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.launcher.request import VerbError
from broker.names import new_id
from broker.volumes.layers import Layers
from profiles.walk import Tree, walk
from tests.volumes.act import Actor
from tests.volumes.deep import make_deep, make_long
from tests.volumes.filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def actor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Actor]:
    with mounted(request.param, tmp_path) as found:
        (found.path / "user").mkdir(mode=0o700)
        yield Actor(found.path / "user")


@pytest.fixture(params=[make_deep, make_long], ids=["deep", "long"])
def make(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    made: Callable[[Path], None] = request.param
    return made


def write_at_the_end(tree: Path, text: bytes) -> None:
    with Tree(tree) as opened:
        end = next(entry for entry in walk(opened.root) if entry.name == b"end")
        descriptor = os.open(b"end", os.O_WRONLY | os.O_TRUNC, dir_fd=end.folder.descriptor())
        os.write(descriptor, text)
        os.close(descriptor)


def test_deep_tree_is_counted_verified_and_removed(actor: Actor, make: Callable[[Path], None]) -> None:
    session = actor.make("overlay")
    make(actor.top(session))
    (actor.top(session) / "other").write_text("x")
    actor("snapshot", session=session, operation=new_id())
    layer = actor.record(session).home.layers[0]
    tree = actor.root / "layers" / layer / "tree"
    for _ in range(2):
        lines = {line["what"]: line for line in actor("size", session=session)["lines"]}
        assert lines["snapshot 1"]["files"] == 2
    assert actor("usage")["bytes"] > 0
    assert actor("verify", session=session) == {"layers": 1, "recorded": 1, "problems": []}
    assert actor("verify", session=session) == {"layers": 1, "recorded": 0, "problems": []}
    write_at_the_end(tree, b"changed")
    (problem,) = actor("verify", session=session)["problems"]
    assert problem.endswith("end: has changed")
    assert len(problem) < 1200
    (tree / "other").write_text("y")
    assert len(actor("verify", session=session)["problems"]) == 2

    actor("rollback", session=session, operation=new_id(), snapshot=1)
    make(actor.top(session))
    unnamed = new_id()
    for place in (unnamed, f".gone-{new_id()}"):  # what no record names, and what a killed removal has left
        (actor.root / "layers" / place / "tree").mkdir(parents=True)
        make(actor.root / "layers" / place / "tree")
    planned = actor("gc", dry_run=True)
    assert unnamed in [each["id"] for each in planned["layers"]]
    assert actor("gc") == planned
    assert actor.layers() == actor.record(session).named_layers()
    actor("purge", session=session)
    assert actor.layers() == set()


def test_discarded_layer_may_be_deep(actor: Actor, make: Callable[[Path], None]) -> None:
    layers = Layers(actor.root / "layers")
    actor.make("overlay")
    there = actor.layers()
    layer = layers.new_top(0o700)
    make(layers.tree(layer))
    layers.discard(layer)
    assert actor.layers() == there


@pytest.mark.parametrize("actor", ["ext4"], indirect=True)
def test_purge_is_done_only_when_all_is_removed(actor: Actor) -> None:
    sessions = [actor.make("overlay") for _ in range(2)]
    for session in sessions:
        (actor.top(session) / "folder").mkdir()
        for name in ("folder/kept", "folder/file", "file"):
            (actor.top(session) / name).write_text("x")
    kept = actor.top(sessions[0]).parent
    subprocess.run(["chattr", "+i", kept / "tree/folder/kept"], check=True)
    try:
        for _ in range(2):
            with pytest.raises(VerbError, match=r"Operation not permitted: .*folder/kept") as refused:
                actor("purge", session=sessions[0])
            assert refused.value.kind == "files"
        with pytest.raises(VerbError, match="removed, except for one of them"):
            actor("gc")
        actor("purge", session=sessions[1])  # all that was its own is gone
        left = [path for path in (actor.root / "layers").rglob("*") if path.is_file()]
        assert [path.name for path in left] == ["kept"]
    finally:
        subprocess.run(["chattr", "-R", "-i", actor.root / "layers"], check=True)
    actor("gc")
    assert actor.layers() == set()
    actor("purge", session=sessions[0])
    assert [*(actor.root / "sessions").iterdir()] == []
