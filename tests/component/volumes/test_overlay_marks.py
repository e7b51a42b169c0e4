"""Every form of a whiteout and of an opaque directory, over every reader of layers, with the mount as the judge."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from broker.names import new_id
from broker.volumes.comparison import ComparisonDepth, compare_stacks, open_stacks
from broker.volumes.flatten import join_layers
from broker.volumes.layers import Layers
from broker.volumes.packages import installed_packages
from profiles.image.layered_tree import LayeredTree
from profiles.image.overlayfs import FUSE_WRITTEN, Marks, detect_marks, open_stack, walk_merged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

INFO = "opt/venv/lib/python3.14/site-packages"
"""A folder that `installed` reads, so that one tree serves all readers."""
GONE, LEFT = f"{INFO}/gone-1.dist-info", f"{INFO}/left-2.dist-info"
MOUNTS = {
    Marks.KERNEL: "mount -t overlay overlay -o ro,userxattr,lowerdir={} {}",
    Marks.FUSE: "fuse-overlayfs -o ro,lowerdir={} {}",
}


def device(tree: Path) -> None:
    os.mknod(tree / GONE, stat.S_IFCHR | 0o600)


def whiteout_attribute(tree: Path) -> None:
    (tree / GONE).touch()
    os.setxattr(tree / GONE, "user.overlay.whiteout", b"y")
    os.setxattr(tree / INFO, "user.overlay.opaque", b"x")
    os.setxattr(tree, "user.overlay.opaque", b"x")


def whiteout_file(tree: Path) -> None:
    (tree / INFO / ".wh.gone-1.dist-info").touch()


def opaque_file(tree: Path) -> None:
    (tree / INFO / ".wh..wh..opq").touch()


def opaque_attribute(name: str) -> Callable[[Path], None]:
    def mark(tree: Path) -> None:
        os.setxattr(tree / INFO, name, b"y")

    return mark


FORMS: dict[str, Callable[[Path], None]] = {
    "device": device,
    "whiteout attribute": whiteout_attribute,
    "whiteout file": whiteout_file,
    "opaque file": opaque_file,
    "opaque attribute of overlayfs": opaque_attribute("user.overlay.opaque"),
    "opaque attribute of fuse-overlayfs": opaque_attribute("user.fuseoverlayfs.opaque"),
}


def shown_by_mount(trees: Sequence[Path], folder: Path, marks: Marks) -> set[str]:
    (folder / "merged").mkdir()
    mount = MOUNTS[marks].format(":".join(map(str, reversed(trees))), folder / "merged")
    script = f'{mount} >&2; cd {folder}/merged; find . -mindepth 1 -printf "%P\\0"; cd /; umount {folder}/merged'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-euc", script]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return {os.fsdecode(path) for path in done.stdout.split(b"\0") if path}


def shown_by_merged(trees: Sequence[Path], marks: Marks) -> set[str]:
    with open_stack(trees, marks) as stack:
        return {entry.path for entry in walk_merged(stack) if not entry.deleted}


def shown_by_diff(trees: Sequence[Path], marks: Marks) -> set[str]:
    with open_stacks([], trees, (marks, marks)) as (before, after):
        return {path for change, path in compare_stacks(before, after, None, ComparisonDepth()) if change == "A"}


def left_by_diff(trees: Sequence[Path], marks: Marks) -> set[str]:
    """Take what a comparison of both layers with the lower one tells to be deleted and added."""
    left = shown_by_merged(trees[:1], marks)
    with open_stacks(trees[:1], trees, (marks, marks)) as (before, after):
        for change, path in compare_stacks(before, after, None, ComparisonDepth()):
            if change == "D" or (change == "M" and not (trees[-1] / path).is_dir()):
                left = {each for each in left if each != path and not each.startswith(f"{path}/")}
            if change in {"A", "M"}:
                left.add(path)
    return left


def shown_by_commit(layers: Sequence[Path], empty: Path) -> set[str]:
    entries = LayeredTree(empty, layers).entries
    return {path for path, entry in entries.items() if not entry.deleted}


def shown_over_image(layers: Sequence[Path], paths: set[str]) -> set[str]:
    """Take the lower layer for the image's tree."""
    system = LayeredTree(layers[0] / "tree", layers[1:])
    return {path for path in paths if system.find(path) is not None}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("marks", MOUNTS)
def test_every_reader_sees_what_the_mount_shows(tmp_path: Path, marks: Marks, form: str) -> None:
    layers = Layers(tmp_path / "layers")
    layers.root.mkdir()
    lower, upper = layers.new_layer(), layers.new_layer()
    trees = [layers.tree(lower), layers.tree(upper)]
    for path in (GONE, LEFT):
        (trees[0] / path).mkdir(parents=True)
        (trees[0] / path / "METADATA").touch()
    (trees[1] / INFO).mkdir(parents=True)
    FORMS[form](trees[1])
    if marks is Marks.FUSE:
        (layers.path(upper) / FUSE_WRITTEN).touch()
    shown = shown_by_mount(trees, tmp_path, marks)
    paths = [layers.path(layer) for layer in (lower, upper)]
    assert detect_marks(paths) is marks
    (tmp_path / "empty").mkdir()
    assert shown_by_merged(trees, marks) == shown
    assert shown_by_diff(trees, marks) == shown
    assert left_by_diff(trees, marks) == shown
    assert shown_by_commit(paths, tmp_path / "empty") == shown
    everything = shown | shown_by_merged(trees[:1], marks)
    assert shown_over_image(paths, everything) == shown
    with open_stack(trees, marks) as stack:
        assert installed_packages(stack, "").keys() == {
            f"pip {name}" for name, path in (("gone", GONE), ("left", LEFT)) if f"{path}/METADATA" in shown
        }
    made = join_layers(layers, (lower, upper), lambda _: False)
    assert detect_marks([layers.path(made)]) is marks
    assert shown_by_merged([layers.tree(made)], marks) == shown


def test_each_program_knows_marks_that_the_other_does_not(tmp_path: Path) -> None:
    """Keep the table above from passing because nothing is a mark."""
    seen = {}
    for marks in MOUNTS:
        for form, make in FORMS.items():
            lower, upper = tmp_path / f"{marks} {form} lower", tmp_path / f"{marks} {form} upper"
            (lower / GONE).mkdir(parents=True)
            (upper / INFO).mkdir(parents=True)
            make(upper)
            if GONE not in shown_by_merged([lower, upper], marks):
                seen[marks, form] = True
    assert set(seen) == {
        (Marks.KERNEL, "device"),
        (Marks.KERNEL, "whiteout attribute"),
        (Marks.KERNEL, "opaque attribute of overlayfs"),
        (Marks.FUSE, "device"),
        (Marks.FUSE, "whiteout file"),
        (Marks.FUSE, "opaque file"),
        (Marks.FUSE, "opaque attribute of overlayfs"),
        (Marks.FUSE, "opaque attribute of fuse-overlayfs"),
    }


@pytest.mark.parametrize("form", FORMS)
def test_in_a_plain_directory_no_file_is_a_mark(tmp_path: Path, form: str) -> None:
    tree = tmp_path / new_id()
    (tree / INFO).mkdir(parents=True)
    FORMS[form](tree)
    everything = {str(path.relative_to(tree)) for path in tree.rglob("*")}
    assert shown_by_diff([tree], Marks.NONE) == everything
