"""Copies of trees that change meanwhile, that are deep, or that cannot be read as a whole."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from broker.volumes.copying import Copy

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from broker.volumes.copied import CopiedFolder


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A volume, and a real home with files and folders of the same names."""
    for tree, text in (("volume", "of the session\n"), ("real", "secret\n")):
        for name in ("a/file", "a/b/file", "a/b/c/file"):
            file = tmp_path / tree / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / tree / "a/link").symlink_to(text)
    return tmp_path


class SwappingCopy(Copy):
    """A copy under whose eyes `swapped` becomes a link to the real home once the folder `when` has been listed."""

    room: Path
    when = b""
    swapped = ""

    def _list(self, folder: CopiedFolder) -> tuple[os.stat_result, list[tuple[str, os.stat_result]]]:
        answer = super()._list(folder)
        place = self.room / "volume" / self.swapped
        if folder.path == self.when and not place.is_symlink():
            shutil.move(place, self.room / "gone")
            place.symlink_to(self.room / "real" / self.swapped)
        return answer


@pytest.mark.parametrize("when", [b"", b"a", b"a/b", b"a/b/c"])
@pytest.mark.parametrize("swapped", ["a", "a/b", "a/b/c"])
def test_folder_that_becomes_a_link_is_not_followed(room: Path, when: bytes, swapped: str) -> None:
    copy = SwappingCopy(str(room / "volume"), str(room / "layer"))
    copy.room, copy.when, copy.swapped = room, when, swapped
    try:
        copy.first()
        copied = [path for path in room.joinpath("layer/tree").rglob("*") if not path.is_dir()]
        texts = [str(path.readlink()) if path.is_symlink() else path.read_text() for path in copied]
        assert "secret\n" not in texts
        copy.second()
    finally:
        copy.close()
    assert room.joinpath("layer/tree", swapped).is_symlink()
    assert {path.read_text() for path in room.joinpath("layer").rglob("file")} <= {"of the session\n"}
