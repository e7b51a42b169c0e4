"""Several files that are replaced together: whole, with the owner's rights, and none if one cannot be written."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from broker.volumes.files import replace_files


def test_all_are_replaced_in_order_and_nothing_else_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    rename = Path.rename

    def note_and_rename(path: Path, target: Path) -> Path:
        order.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", note_and_rename)
    (tmp_path / "first").write_text("of the last job")
    replace_files({tmp_path / "first": b"new", tmp_path / "second": [b"in ", b"parts"], tmp_path / "third": b""})
    content = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert content == {"first": "new", "second": "in parts", "third": ""}
    assert order == ["first", "second", "third"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_none_is_replaced_if_one_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "first").write_text("of the last job")
    with pytest.raises(FileNotFoundError):
        replace_files({tmp_path / "first": b"new", tmp_path / "missing/second": b"new"})
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_files({tmp_path / "folder": b"new"})
    assert (tmp_path / "first").read_text() == "of the last job"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "folder"]
