"""Fixtures of the tests of the API."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def directory() -> Iterator[Path]:
    """A short path, since a socket's may have 107 bytes, which other users can reach."""
    with tempfile.TemporaryDirectory(prefix="berth-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
