"""What several of the unit tests need."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.postgresql import PostgreSQL, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="berth-"))  # short: a socket's path has at most 107 bytes
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server for all tests; each leaves it running and empty."""
    with running() as server:
        yield server
