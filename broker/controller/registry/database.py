"""The registry's database: its URL, its settings and its migrations."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
from alembic import command
from alembic.config import Config as AlembicConfig
from pydantic_core import from_json
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from broker.controller.registry.filesystem import network_file_system
from broker.controller.registry.registry import Registry
from broker.controller.registry.transactions import Lock, RegistryError
from broker.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable

MIGRATIONS = Path(__file__).parent / "migrations"


BUSY_TIMEOUT = 30
"""Seconds that SQLite waits for a lock, such as a backup's."""


CLIENT_SETTINGS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
"""libpq's settings of each connection, unless registry.url has others: a server that does not answer is given up
after 30 s, not after hours."""


def parse_url(url: str) -> sqlalchemy.URL:
    """Return the URL of a database that can be a registry. InvalidInputError names the remedy for any other."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise InvalidInputError(f"registry.url {url!r} is no SQLAlchemy URL") from error
    if parsed.drivername not in {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}:
        raise InvalidInputError(
            f"registry.url: {parsed.drivername} cannot be a registry",
            hint="`sqlite:////var/lib/berth/registry.db` or `postgresql+psycopg://…`",
        )
    if parsed.get_backend_name() == "sqlite":
        _check_is_file(parsed)
    elif importlib.util.find_spec("psycopg") is None:
        raise InvalidInputError(
            "registry.url: PostgreSQL needs the package psycopg", hint="install Berth with `pip install .[postgresql]`"
        )
    return parsed


def _check_is_file(url: sqlalchemy.URL) -> None:
    if not url.database or url.database.startswith((":memory:", "file:")):
        raise InvalidInputError("registry.url: SQLite needs a file", hint="sqlite:////var/lib/berth/registry.db")


def open_registry(url: str, *, alone: bool = False, lock: Lock | None = None) -> Registry:
    """Open the database behind an SQLAlchemy URL, making or migrating its tables first.

    The controller holds `lock` (registry_lock.hold_registry); every call checks that it still does.

    SQLite runs with a write-ahead log, which needs shared memory and so a local disk (sqlite.org/wal.html): a
    network file system is refused. A caller that is `alone` with the file, by a lock of its own, may have it there:
    then one connection keeps SQLite's exclusive lock, with a rollback journal. RegistryError says what cannot be
    opened and the remedy.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = _sqlite(parsed, alone=alone)
    else:
        own = {name: value for name, value in CLIENT_SETTINGS.items() if name not in parsed.query}
        engine = _create_engine(parsed, pool_pre_ping=True, connect_args=own)
    if lock is not None:
        lock.guard(engine)
    try:
        migrate(engine)
    except (SQLAlchemyError, OSError) as error:
        engine.dispose()
        raise RegistryError(
            f"the registry {parsed.render_as_string()} cannot be opened: {error}",
            hint="if its file is damaged or lost, move it away, start the controller and run `berth registry rebuild`",
        ) from error
    return Registry(engine, lock)


_create_engine = functools.partial(sqlalchemy.create_engine, json_deserializer=from_json)
"""A session has up to six JSON columns: read by json.loads, they are a sixth of the time that its rows take."""


def _sqlite(url: sqlalchemy.URL, *, alone: bool) -> sqlalchemy.Engine:
    assert url.database is not None
    kind = network_file_system(Path(url.database).parent)
    if kind and not alone:
        raise InvalidInputError(
            f"the registry {url.database} would lie on a network file system ({kind}), where SQLite loses data",
            hint="put state_dir on a local disk, or use PostgreSQL (registry.url)",
        )
    if kind:
        # One connection for all threads, each of which waits for its turn: a second would never get the lock.
        engine = _create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=BUSY_TIMEOUT)
    else:
        engine = _create_engine(url)
    sqlalchemy_event.listen(engine, "connect", functools.partial(_configure_sqlite, _NETWORK if kind else _LOCAL))
    return engine


def migrate(engine: sqlalchemy.Engine) -> None:
    """Bring the tables to this version's schema, wholly or not at all.

    SQLite changes some things of a table only by making it anew, and must not look at references to it meanwhile, which
    it can be told outside of transactions only (sqlite.org/lang_altertable.html, section 7).
    """
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        _look_at_references(connection, look=False)
        with connection.begin():
            if connection.dialect.name == "sqlite":  # whose driver begins by itself for data only, not for tables
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            command.upgrade(config, "head")
        _look_at_references(connection, look=True)


def _look_at_references(connection: sqlalchemy.Connection, *, look: bool) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA foreign_keys={'ON' if look else 'OFF'}")
        connection.commit()


_LOCAL = ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT * 1000}", "foreign_keys=ON")


# The lock first: with it, SQLite can take over a write-ahead log that was left there, without shared memory.
_NETWORK = ("locking_mode=EXCLUSIVE", "journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON")


def _configure_sqlite(pragmas: Iterable[str], connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection type
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
