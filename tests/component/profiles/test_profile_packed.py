"""Packed layers: whiteouts and opaque directories come out as they went in."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from profiles.errors import ProfilesError
from profiles.image.overlayfs import Marks, open_stack, walk_merged
from profiles.image.unpack_layers import unpack_with_fuse_marks

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("plain", "with space", "b*[r]", "-dash", "ümlaut", "back\\slash")


def test_whiteouts_and_opaque_directories_survive(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in (*NAMES, "d"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").write_text(name)
    os.setxattr(tree / "d", "user.overlay.opaque", b"y")
    gone = [f"{name}/gone {name}" for name in NAMES]
    pseudo = "".join(f'"{path}" c 600 0 0 0 0\n'.replace("\\", "\\\\") for path in gone)
    (tmp_path / "pseudo").write_text(pseudo)
    packing = ["mksquashfs", str(tree), str(tmp_path / "a.squashfs"), "-quiet", "-pf", str(tmp_path / "pseudo")]
    subprocess.run(packing, check=True, capture_output=True, timeout=60)
    (tree / "plain").chmod(0o755)
    unpack_with_fuse_marks(tmp_path / "a.squashfs", tmp_path / "out", 60)
    with open_stack([tmp_path / "out"], Marks.FUSE) as stack:
        entries = {entry.path: entry for entry in walk_merged(stack)}
    assert {path for path, entry in entries.items() if entry.deleted} == set(gone)
    assert {path for path, entry in entries.items() if entry.opaque} == {"d"}
    assert len(entries) == 3 * len(NAMES) + 2


def test_name_that_looks_like_a_whiteout_leads_nowhere(tmp_path: Path) -> None:
    """A session may make names with line ends, and the list of a squashfs shows them as they are."""
    tree, real = tmp_path / "tree", tmp_path / "real"
    (tree / "b").mkdir(parents=True)
    real.mkdir()
    (tree / "b/link").symlink_to(real)
    (tree / "a\nc--------- 0/0 0, 0 2024-01-01 00:00 /b/link/x").mkdir(parents=True)
    packing = ["mksquashfs", str(tree), str(tmp_path / "a.squashfs"), "-quiet"]
    subprocess.run(packing, check=True, capture_output=True, timeout=60)
    unpack_with_fuse_marks(tmp_path / "a.squashfs", tmp_path / "out", 60)
    assert list(real.iterdir()) == []


def test_what_is_no_squashfs_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.squashfs").write_bytes(b"x" * 200)
    with pytest.raises(ProfilesError, match=r"cannot unpack .*a\.squashfs"):
        unpack_with_fuse_marks(tmp_path / "a.squashfs", tmp_path / "out", 60)
