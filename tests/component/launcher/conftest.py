"""The storage of the launchers under test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.temporary import let_others_enter
from tests.volumes.filesystems import mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A directory that USER can reach and where everybody may make their own, as /tmp."""
    let_others_enter(tmp_path)
    return _shared(tmp_path)


@pytest.fixture
def sharing_blocks(tmp_path: Path) -> Iterator[Path]:
    """As `storage`, on a file system on which files can share blocks."""
    let_others_enter(tmp_path)
    with mounted("xfs", tmp_path) as disk:
        yield _shared(disk.path)


def _shared(folder: Path) -> Path:
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    return shared
