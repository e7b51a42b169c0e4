"""The storage of the launchers under test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.temporary import let_others_enter

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A directory that USER can reach and where everybody may make their own, as /tmp."""
    let_others_enter(tmp_path)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    return shared
