"""The registry's database: its URL, its settings and its migrations."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy
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


BUSY_TIMEOUT_S = 30
"""Seconds that SQLite waits for a lock, such as a backup's."""


CLIENT_SETTINGS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
"""libpq's settings of each connection, unless registry.url has others: an unanswered connection ends after 30 s, not
after hours."""


def parse_url(url: str) -> sqlalchemy.URL:
    """Return the URL of a database that can be a registry. InvalidInputError names the remedy for any other."""
    try:
        parsed = sqlalchemy.engine.make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise InvalidInputError(f"registry.url {url!r} is not an SQLAlchemy URL") from error
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
    """Open the database behind an SQLAlchemy URL, after creating or migrating its tables.

    The controller holds `lock` (lock.hold_registry), and every call checks it. RegistryError names the database that
    cannot be opened, and the remedy.

    SQLite runs with a write-ahead log, which needs shared memory and so a local disk (sqlite.org/wal.html). On a
    network file system it needs a caller that is `alone` with the file, by its own lock: then one connection keeps
    SQLite's exclusive lock, with a rollback journal.
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
"""A session has up to six JSON columns. With json.loads, parsing them takes a sixth of the time to read a row."""


def _sqlite(url: sqlalchemy.URL, *, alone: bool) -> sqlalchemy.Engine:
    assert url.database is not None
    kind = network_file_system(Path(url.database).parent)
    if kind and not alone:
        raise InvalidInputError(
            f"the registry {url.database} is on a network file system ({kind}), where SQLite loses data",
            hint="put state_dir on a local disk, or use PostgreSQL (registry.url)",
        )
    if kind:
        # One connection, which only one thread uses at a time: a second one would never get the lock.
        engine = _create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=BUSY_TIMEOUT_S)
    else:
        engine = _create_engine(url)
    sqlalchemy_event.listen(engine, "connect", functools.partial(_configure_sqlite, _NETWORK if kind else _LOCAL))
    return engine


def migrate(engine: sqlalchemy.Engine) -> None:
    """Migrate the tables to this version's schema in one transaction, unless they have it.

    SQLite makes some changes only by a new table. Meanwhile it must not check foreign keys, which can be switched off
    only outside of transactions (sqlite.org/lang_altertable.html, section 7).
    """
    if _has_newest_schema(engine):
        return
    from alembic import command  # noqa: PLC0415 - loading it and all migrations takes a sixth of a controller's start
    from alembic.config import Config as AlembicConfig  # noqa: PLC0415 - as above

    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        _check_foreign_keys(connection, on=False)
        with connection.begin():
            if connection.dialect.name == "sqlite":  # its driver opens transactions for data only, not for tables
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            command.upgrade(config, "head")
        _check_foreign_keys(connection, on=True)


def _has_newest_schema(engine: sqlalchemy.Engine) -> bool:
    """Whether the newest migration is the last one that these tables had. The files are named after their revisions."""
    newest = max(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    with engine.connect() as connection:
        if not sqlalchemy.inspect(connection).has_table("alembic_version"):
            return False
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()
    return found == [newest]


def _check_foreign_keys(connection: sqlalchemy.Connection, *, on: bool) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA foreign_keys={'ON' if on else 'OFF'}")
        connection.commit()


_LOCAL = ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_S * 1000}", "foreign_keys=ON")


# The lock first: with it, SQLite can read a write-ahead log that was left there, without shared memory.
_NETWORK = ("locking_mode=EXCLUSIVE", "journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON")


def _configure_sqlite(pragmas: Iterable[str], connection: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own connection type
    cursor = connection.cursor()
    for pragma in pragmas:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
