"""Layers with paths above PATH_MAX and with thousands of folders within each other, over every reader."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from broker.volumes.comparison import ComparisonDepth, compare_stacks, open_stacks
from broker.volumes.flatten import join_layers
from broker.volumes.layers import Layers
from broker.volumes.squashfs import pack_layer
from profiles.commit import commit
from profiles.commit import compare as comparing
from profiles.commit.apply import apply_layers
from profiles.commit.filters import PathFilter
from profiles.commit.findings import LeftOut
from profiles.image.layered_tree import MAX_PATH_BYTES, LayeredTree
from profiles.image.overlayfs import Marks, open_stack, walk_merged
from tests.volumes.deep import make_chain, removed_afterwards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEPTH = 2500
NAME = b"a-folder-with-a-name"
INNERMOST = "/".join([os.fsdecode(NAME)] * DEPTH)


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    with removed_afterwards(tmp_path):
        yield tmp_path


def layer(layers: Layers) -> str:
    made = layers.new_layer()
    layers.tree(made).mkdir()
    return made


@pytest.fixture
def layers(room: Path) -> Layers:
    (room / "layers").mkdir()
    return Layers(room / "layers")


def test_diff_tells_what_lies_deep(layers: Layers) -> None:
    lower, upper = layer(layers), layer(layers)
    make_chain(layers.tree(lower), DEPTH, NAME, b"old")
    make_chain(layers.tree(upper), DEPTH, NAME, b"new")
    trees = [layers.tree(lower), layers.tree(upper)]
    with open_stacks(trees[:1], trees, (Marks.KERNEL, Marks.KERNEL)) as (before, after):
        assert [*compare_stacks(before, after, None, ComparisonDepth(content=True))] == [("A", f"{INNERMOST}/new")]
    with open_stacks(trees, trees[:1], (Marks.KERNEL, Marks.KERNEL)) as (before, after):
        assert [*compare_stacks(before, after, None, ComparisonDepth())] == [("D", f"{INNERMOST}/new")]
    with open_stacks(trees, [], (Marks.KERNEL, Marks.KERNEL)) as (before, after):
        assert [*compare_stacks(before, after, None, ComparisonDepth())] == [("D", os.fsdecode(NAME))]


def test_flatten_joins_what_lies_deep(layers: Layers) -> None:
    lower, upper = layer(layers), layer(layers)
    make_chain(layers.tree(lower), DEPTH, NAME, b"old")
    make_chain(layers.tree(upper), DEPTH, NAME, b"new")
    (layers.tree(upper) / "first").touch()
    made = join_layers(layers, (lower, upper), lambda _: False)
    with open_stack([layers.tree(made)]) as stack:
        entries = [*walk_merged(stack)]
    assert {entry.path for entry in entries if entry.kind == "file"} == {
        "first", f"{INNERMOST}/old", f"{INNERMOST}/new"
    }  # fmt: skip


def test_file_with_too_many_names_is_copied_deep_down(layers: Layers, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = layer(layers)
    make_chain(layers.tree(lower), DEPTH, NAME, b"file")
    with open_stack([layers.tree(lower)]) as stack:
        *_, deepest = walk_merged(stack)
        folder = deepest.found.folder
        for name in (b"second", b"third"):
            os.link(b"file", name, src_dir_fd=folder.descriptor(), dst_dir_fd=folder.descriptor())
    link = os.link

    def limited(source: bytes, target: bytes, **options: object) -> None:
        """Refuse to give the layer's own file two more names, as a file system whose limit is reached."""
        if source == b"third" or (source == b"second" and target == b"second"):
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        link(source, target, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "link", limited)
    made = join_layers(layers, (lower,), lambda _: False)
    monkeypatch.undo()
    with open_stack([layers.tree(made)]) as stack:
        files = {entry.found.name: entry.found.status for entry in walk_merged(stack) if entry.kind == "file"}
    assert files.keys() == {b"file", b"second", b"third"}
    assert len({status.st_ino for status in files.values()}) == 1


def test_commit_takes_deep_folders_and_names_what_is_too_long(layers: Layers, room: Path) -> None:
    """One letter a folder: so many of them are still a path that system calls take, and more than Python calls."""
    lower = layer(layers)
    top = layers.tree(lower) / "opt"
    top.mkdir()
    make_chain(top, 1100, b"d", b"file")
    (layers.tree(lower) / "srv").mkdir()
    make_chain(layers.tree(lower) / "srv", DEPTH, b"e", b"file")
    (layers.tree(lower) / "usr").mkdir()
    (layers.tree(lower) / "usr/plain").write_text("plain")
    os.mknod(layers.tree(lower) / "gone", stat.S_IFCHR)
    tree = room / "image"
    (tree / "gone").mkdir(parents=True)
    make_chain(tree / "gone", 1100, b"g", b"file")
    system = LayeredTree(tree, [layers.path(lower)])
    findings = comparing.compare_system(system, PathFilter())
    paths = [(each.change, each.path) for each in findings.files]
    assert ("A", "/usr/plain") in paths
    assert ("A", "/opt/" + "d/" * 1100 + "file") in paths
    assert ("D", "/gone") in paths
    (left,) = findings.left_out
    assert left == LeftOut(left.path, comparing.PATH_TOO_LONG)
    longest = MAX_PATH_BYTES - max(len(os.fsencode(each)) for each in (tree, layers.tree(lower))) - 1
    assert longest < len(left.path.removeprefix("/")) <= longest + 2
    apply_layers(system, {each.path.removeprefix("/") for each in findings.left_out})
    assert (tree / "usr/plain").read_text() == "plain"
    assert os.path.lexists(tree / ("opt/" + "d/" * 1100 + "file"))
    assert not (tree / "gone").exists()


def test_commit_names_what_a_packed_layer_has_beside_its_squashfs(layers: Layers, room: Path) -> None:
    source, made = layer(layers), layer(layers)
    make_chain(layers.tree(source), 20, b"n" * 250, b"file")
    (layers.tree(source) / "plain").write_text("plain")
    layers.tree(made).rmdir()
    pack_layer(layers.tree(source), layers.path(made))
    steps = SimpleNamespace(remaining_seconds=lambda: 60.0)
    opened_layer = commit._unpacked_layer(layers.path(made), room, steps)  # type: ignore[arg-type]
    (room / "image").mkdir()
    findings = comparing.compare_system(LayeredTree(room / "image", [opened_layer]), PathFilter())
    assert ("A", "/plain") in [(each.change, each.path) for each in findings.files]
    (left,) = [each for each in findings.left_out if each.why == comparing.PATH_TOO_LONG]
    assert 3000 < len(left.path) < 4096


def test_work_of_diff_grows_with_the_depth_and_not_with_its_square(layers: Layers) -> None:
    """Counted in calls: 34 s for 990 folders were a look-up of each path from the root, in each layer."""

    def calls(depth: int) -> int:
        lower, upper = layer(layers), layer(layers)
        make_chain(layers.tree(lower), depth, NAME, b"old")
        make_chain(layers.tree(upper), depth, NAME, b"new")
        trees = [layers.tree(lower), layers.tree(upper)]
        counted: Counter[str] = Counter()
        with open_stacks(trees[:1], trees, (Marks.KERNEL, Marks.KERNEL)) as (before, after):
            sys.setprofile(lambda _frame, event, _argument: counted.update([event]))
            try:
                changes = [*compare_stacks(before, after, None, ComparisonDepth())]
            finally:
                sys.setprofile(None)
        assert len(changes) == 1
        return counted["call"] + counted["c_call"]

    assert calls(2000) < 8 * 1.5 * calls(250)


JOIN_WITH_1024_FILES = """
import resource, sys
from pathlib import Path
from broker.volumes.flatten import join_layers
from broker.volumes.layers import Layers

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))  # as login shells have it
print(join_layers(Layers(Path(sys.argv[1])), tuple(sys.argv[2:]), lambda _: False))
"""


def test_stack_of_more_layers_than_a_process_may_have_files(layers: Layers) -> None:
    """Joining them is the remedy for so many. A process of its own, as the launcher's: no other open files count."""
    stack = [layer(layers) for _ in range(400)]
    for number, each in enumerate(stack):
        (layers.tree(each) / "a/b").mkdir(parents=True)
        (layers.tree(each) / "a/b" / str(number)).touch()
    done = subprocess.run(
        [sys.executable, "-c", JOIN_WITH_1024_FILES, layers.root, *stack],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    made = done.stdout.strip()
    assert len([*(layers.tree(made) / "a/b").iterdir()]) == len(stack)
