"""Removal of trees: whatever their modes and depth, and nothing but what is in them."""

from __future__ import annotations

import gc
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from profiles import removal
from profiles.removal import remove_tree
from tests.volumes.deep import make_deep, make_long

if TYPE_CHECKING:
    from profiles.walk import Folder


def test_deep_and_long_trees_are_removed_with_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "MAX_OPEN_FOLDERS", 64)
    gc.collect()  # files that earlier tests left open are closed now, not in between
    before = len([*Path("/proc/self/fd").iterdir()])
    for make in (make_deep, make_long):
        (tmp_path / "tree").mkdir()
        make(tmp_path / "tree")
        remove_tree(tmp_path / "tree")
        assert [*tmp_path.iterdir()] == []
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_what_is_no_folder_and_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("other")
    for name in ("file", "link", "nothing"):
        remove_tree(tmp_path / name)
    remove_tree(tmp_path / "nowhere/tree")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tree/folder").mkdir(parents=True)
    (tmp_path / "outside").mkdir(mode=0o500)
    (tmp_path / "outside/file").write_text("x")
    (tmp_path / "tree/link").symlink_to(tmp_path / "outside")
    (tmp_path / "tree/folder/link").symlink_to(tmp_path / "outside/file")
    remove_tree(tmp_path / "tree")
    assert (tmp_path / "outside/file").read_text() == "x"
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o500


@pytest.mark.parametrize("listed_first", [True, False])
def test_folder_that_is_replaced_by_a_link_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed_first: bool
) -> None:
    """The owner's own processes may rename things at any moment."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "folder/file").write_text("x")
    outside.chmod(0o500)
    (tmp_path / "tree/folder/folder").mkdir(parents=True)
    (tmp_path / "tree/folder/folder/file").write_text("x")
    real = vars(removal)["_grant_access"]

    def replacing(folder: Folder) -> None:
        if listed_first:
            real(folder)
        if folder.name == b"folder" and (tmp_path / "tree/folder").is_dir() and not (tmp_path / "moved").exists():
            (tmp_path / "tree/folder").rename(tmp_path / "moved")
            (tmp_path / "tree/folder").symlink_to(outside)
        if not listed_first:
            real(folder)

    monkeypatch.setattr(removal, "_grant_access", replacing)
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "tree")
    monkeypatch.undo()
    assert (outside / "folder/file").read_text() == "x"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def _as_nobody(folder: Path, name: str) -> int:
    child = os.fork()
    if child == 0:
        try:
            os.chdir(folder)  # which is below root's own folders
            if os.geteuid() == 0:
                os.setresuid(65534, 65534, 65534)
            remove_tree(Path(name))
        except BaseException:  # noqa: BLE001 - a forked child ends here whatever happens
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o500, 0o300, 0o100])
def test_modes_of_folders_are_no_obstacle(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(0o777)
    folders = [tmp_path / "tree", tmp_path / "tree/one", tmp_path / "tree/one/two"]
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_text("x")
    for folder in reversed(folders):
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
        folder.chmod(mode)
    assert _as_nobody(tmp_path, "tree") == 0
    assert not (tmp_path / "tree").exists()


def test_what_cannot_be_removed_is_named_and_all_else_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / "tree" / name).mkdir(parents=True)
        (tmp_path / "tree" / name / "file").write_text("x")
    real = os.unlink

    def unlink(path: bytes, *, dir_fd: int) -> None:
        if Path(f"/proc/self/fd/{dir_fd}").readlink().name == "two":
            raise PermissionError(1, "Operation not permitted")
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(PermissionError) as error:
        remove_tree(tmp_path / "tree")
    monkeypatch.undo()
    assert error.value.filename == str(tmp_path / "tree/two/file")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "tree",
        "tree/two",
        "tree/two/file",
    ]
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
