"""Settings of all unit tests: they wait neither for a busy disk nor for a busy machine."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.controller.registry import database
from broker.controller.sessions import lifecycle, pending, resize
from tests.deadlines import DEADLINE_S
from tests.fakes.core import empty_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """Let a request wait for its result as long as a test may, and nothing wait for the disk (fsync(2)).

    Nothing in a unit test outlives its process, so nothing is lost. Tests of these waits set them themselves.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (lifecycle, pending, resize):
            patch.setattr(module, "ANSWER_TIMEOUT_S", DEADLINE_S)
        unsafe = tuple(pragma.replace("synchronous=FULL", "synchronous=OFF") for pragma in database._LOCAL)
        assert "synchronous=OFF" in unsafe
        patch.setattr(database, "_LOCAL", unsafe)
        patch.setattr(os, "fsync", os.fstat)  # which also refuses a closed descriptor
        yield


@functools.cache
def _newest_revision() -> str:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "registry.db"
        file.write_bytes(empty_registry())
        return _revision(file)


def _revision(file: Path) -> str:
    """Return the revision of a registry's tables; empty if it has none."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        try:
            return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        except sqlite3.DatabaseError:
            return ""


@pytest.fixture(scope="session", autouse=True)
def registry_from_copy() -> Iterator[None]:
    """Make each new registry a copy of one that all migrations have made; they take 190 ms of processor time.

    Another registry is migrated, unless it has the newest tables already. So is one of PostgreSQL, which component
    tests of the same run have.
    """
    migrate = database.migrate

    def copy_or_migrate(engine: sqlalchemy.Engine) -> None:
        file = Path(engine.url.database or "")
        if engine.dialect.name != "sqlite":
            migrate(engine)
        elif not file.is_file() or not file.stat().st_size:
            file.write_bytes(empty_registry())
        elif _revision(file) != _newest_revision():
            migrate(engine)

    _newest_revision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "migrate", copy_or_migrate)
        yield
