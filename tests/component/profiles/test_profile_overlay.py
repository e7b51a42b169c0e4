"""The merged view of hand-made layers, and that it is what the kernel shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from profiles.image.overlayfs import OPAQUE_XATTRS, EntryKind, Marks, MergedEntry, open_stack, walk_merged

OPAQUE = "user.overlay.opaque"


def layer(folder: Path, name: str, *what: str) -> Path:
    """A layer in fuse-overlayfs's spelling: `dir/`, `file`, `.wh.gone`, `dir/.wh..wh..opq`."""
    root = folder / name
    root.mkdir()
    for each in what:
        path = root / each
        path.parent.mkdir(parents=True, exist_ok=True)
        if each.endswith("/"):
            path.mkdir(exist_ok=True)
        else:
            path.write_text(name)
    return root


def read(*layers: Path, marks: Marks = Marks.FUSE) -> list[MergedEntry]:
    with open_stack(layers, marks) as stack:
        return [*walk_merged(stack)]


def shown(*layers: Path, marks: Marks = Marks.FUSE) -> list[str]:
    """The entries in short: `D` deleted, `O` opaque, `-` neither, the path, and the layer whose it is."""
    entries = read(*layers, marks=marks)
    return [f"{'D' if e.deleted else 'O' if e.opaque else '-'} {e.path} {e.layer}" for e in entries]


def test_nothing_shows_nothing(tmp_path: Path) -> None:
    assert shown() == []
    assert shown(layer(tmp_path, "a")) == []


def test_the_newest_layer_decides_and_directories_come_before_what_is_in_them(tmp_path: Path) -> None:
    old = layer(tmp_path, "old", "d/a", "d/b", "e/x", "z")
    new = layer(tmp_path, "new", "d/b", "d-e", "d/c/deep")
    assert shown(old, new) == [
        "- d 1",
        "- d/a 0",
        "- d/b 1",
        "- d/c 1",
        "- d/c/deep 1",
        "- d-e 1",
        "- e 0",
        "- e/x 0",
        "- z 0",
    ]
    entries = {entry.path: entry for entry in read(old, new)}
    assert entries["d/b"].source == new / "d/b"
    assert entries["d/a"].source == old / "d/a"
    assert (entries["d"].kind, entries["d/a"].kind) == (EntryKind.DIRECTORY, EntryKind.FILE)


def test_whiteouts_hide_what_is_below_and_are_told(tmp_path: Path) -> None:
    old = layer(tmp_path, "old", "d/a", "f", "again")
    new = layer(tmp_path, "new", ".wh.d", "e/.wh.x", ".wh.f", ".wh.again")
    newest = layer(tmp_path, "newest", "again", "f/")
    assert shown(old, new) == ["D again 1", "D d 1", "- e 1", "D e/x 1", "D f 1"]
    assert shown(old, new, newest) == ["- again 2", "D d 1", "- e 1", "D e/x 1", "O f 2"]
    gone = read(old, new)[0]
    assert (gone.source, gone.kind) == (None, EntryKind.WHITEOUT)


def test_an_opaque_directory_hides_what_is_below_and_needs_no_whiteouts(tmp_path: Path) -> None:
    old = layer(tmp_path, "old", "d/a", "d/sub/b")
    new = layer(tmp_path, "new", "d/.wh..wh..opq", "d/.wh.a", "d/sub/c")
    newest = layer(tmp_path, "newest", "d/sub/.wh.c", "d/sub/inner/.wh..wh..opq")
    assert shown(old, new) == ["O d 1", "- d/sub 1", "- d/sub/c 1"]
    assert shown(old, new, newest) == ["O d 2", "- d/sub 2", "- d/sub/inner 2"]


@pytest.mark.parametrize("name", OPAQUE_XATTRS[Marks.FUSE])
def test_each_attribute_makes_a_directory_opaque(tmp_path: Path, name: str) -> None:
    if name.startswith("trusted.") and os.getuid() != 0:
        pytest.skip("only root can make and read trusted attributes (xattr(7))")
    old, new = layer(tmp_path, "old", "d/a"), layer(tmp_path, "new", "d/b", "e/")
    os.setxattr(new / "d", name, b"y")
    os.setxattr(new / "e", name, b"x")  # overlayfs: "may hold whiteouts that are attributes", which nobody makes here
    assert shown(old, new) == ["O d 1", "- d/b 1", "- e 1"]


def test_a_directory_over_a_file_hides_what_is_under_the_stack(tmp_path: Path) -> None:
    old, middle, new = (layer(tmp_path, "1", "d/a"), layer(tmp_path, "2", "d"), layer(tmp_path, "3", "d/b"))
    assert shown(old, middle) == ["- d 1"]
    assert shown(old, middle, new) == ["O d 2", "- d/b 2"]


def test_links_are_not_followed_and_names_may_be_any_bytes(tmp_path: Path) -> None:
    one = layer(tmp_path, "one", "real/a")
    (one / "link").symlink_to("real")
    os.mkfifo(one / "pipe")
    Path(os.fsdecode(bytes(one) + b"/\xff\n")).touch()
    kinds = {entry.path: entry.kind for entry in read(one)}
    assert kinds == {
        "link": EntryKind.SYMLINK,
        "pipe": EntryKind.OTHER,
        "real": EntryKind.DIRECTORY,
        "real/a": EntryKind.FILE,
        "\udcff\n": EntryKind.FILE,
    }


def test_a_tree_may_be_deep(tmp_path: Path) -> None:
    one = deepest = layer(tmp_path, "one")
    for _ in range(sys.getrecursionlimit() + 1):
        deepest /= "d"
        deepest.mkdir()
    entries = read(one)
    subprocess.run(["rm", "-r", one], check=True)  # pytest's own way of removing it is not made for this
    assert len(entries) == sys.getrecursionlimit() + 1


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        read(tmp_path / "none")


KERNEL = """
import os, pathlib, subprocess, sys
from profiles.image.overlayfs import open_stack, walk_merged

def read(*layers):
    with open_stack(layers) as stack:
        return [*walk_merged(stack)]

def mount(lower, upper):
    options = f"userxattr,lowerdir={lower},upperdir={upper},workdir=work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", "all"], check=True)

def walk(root):
    for path in sorted(pathlib.Path(root).rglob("*")):
        kind = "l" if path.is_symlink() else "d" if path.is_dir() else "f"
        yield str(path.relative_to(root)), kind, path.read_text() if kind == "f" else ""

for directory in ("base/d/sub", "base/e", "base/g/h", "1", "2", "work", "all"):
    os.makedirs(directory)
for file in ("base/d/a", "base/d/sub/b", "base/e/c", "base/f", "base/g/h/i", "base/k"):
    pathlib.Path(file).write_text(file)

def script(text):
    subprocess.run(["sh", "-euc", text], cwd="all", check=True)

mount("base", "1")
script("rm f; rm -r d/sub; mkdir d/sub; echo 1 >d/sub/n; rm -r e; echo no directory >e")
script("mkdir p q; echo p >p/o; echo q >q/o")
subprocess.run(["umount", "all"], check=True)
mount("1:base", "2")
script("rm -r p; rm e; mkdir e; echo 2 >e/new; rm k; ln -s a k; rm d/sub/n; rm -r q; mkdir q; mv d/a d/moved")
script("rm -r g; echo 2 >f")
seen = dict.fromkeys(walk("all"))
subprocess.run(["umount", "all"], check=True)

state = {path: (kind, text) for path, kind, text in walk("base")}
def drop(path, itself):
    for each in [each for each in state if each.startswith(path + "/") or (itself and each == path)]:
        del state[each]
for entry in read("1", "2"):
    if entry.deleted or entry.kind != "directory":
        drop(entry.path, True)
    elif entry.opaque:
        drop(entry.path, False)
    if entry.source:
        state[entry.path] = (entry.kind[0] if entry.kind != "symlink" else "l",
                             entry.source.read_text() if entry.kind == "file" else "")
ours = {(path, kind, text) for path, (kind, text) in state.items()}
assert ours == set(seen), (ours ^ set(seen))
told = {entry.path: entry for entry in read("1", "2")}
assert told["f"].kind == "file" and told["g"].deleted and told["e"].opaque and told["d/sub"].opaque, told
assert told["d/a"].deleted and told["p"].deleted and "d/sub/n" not in told, told
print(len(ours))
"""


def test_it_is_what_the_kernel_shows(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", sys.executable, "-c", KERNEL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 8
