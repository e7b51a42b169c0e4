"""A real PostgreSQL server of the tests' own, on a Unix socket and, if asked for, on TCP."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy

if TYPE_CHECKING:
    from collections.abc import Iterator


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "PostgreSQL is missing: `apt-get install postgresql`"
    return found[-1].parent


class PostgreSQL:
    """One server; its socket is in `directory`, which every account may enter."""

    def __init__(self, directory: Path, as_account: list[str], *, listen: str = "") -> None:
        self.directory = directory
        self._as_account = as_account
        self._options = f"-c listen_addresses={listen} -c unix_socket_directories={directory} -c fsync=off"
        self.url = f"postgresql+psycopg://berth@/postgres?host={directory}"

    def start(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-l", str(self.directory / "log"), "-w", "-o", self._options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def initialise(self) -> None:
        self._run("initdb", "-D", self._data, "-A", "trust", "-U", "berth", "--no-sync")

    def ask(self, statement: str, **values: object) -> list[sqlalchemy.Row[tuple[object, ...]]]:
        engine = sqlalchemy.create_engine(self.url)
        try:
            with engine.begin() as connection:
                result = connection.execute(sqlalchemy.text(statement), values)
                return list(result) if result.returns_rows else []
        finally:
            engine.dispose()

    def clear(self) -> None:
        """Make it empty again."""
        self.ask("drop schema public cascade; create schema public")

    @property
    def _data(self) -> str:
        return str(self.directory / "data")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_account, str(_programs() / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60, cwd="/")


@contextlib.contextmanager
def running(listen: str = "") -> Iterator[PostgreSQL]:
    """A server, run by an account that may."""
    account = pwd.getpwnam("postgres") if os.getuid() == 0 else None
    as_account = (
        ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"] if account else []
    )
    made = subprocess.check_output([*as_account, "mktemp", "-d", "-t", "berth-pg.XXXXXX"], text=True).strip()
    directory = Path(made)
    try:
        directory.chmod(0o755)
        server = PostgreSQL(directory, as_account, listen=listen)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
