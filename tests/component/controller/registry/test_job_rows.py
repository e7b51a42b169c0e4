"""A registry of before the jobs' rows had all that is known of a job: its sessions and their jobs are the same after.

`sessions_of_0008.json` was written by the code of that time: its rows, and the views of each session and its jobs.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config as AlembicConfig

from broker.controller.registry.database import MIGRATIONS, open_registry
from broker.controller.registry.registry import JobChange, Registry
from broker.schema.sessions import LIVE, SessionState

if TYPE_CHECKING:
    from tests.postgresql import PostgreSQL

OLD = json.loads((Path(__file__).parent / "sessions_of_0008.json").read_text(encoding="utf-8"))
TABLES: dict[str, list[dict[str, Any]]] = OLD["tables"]
VIEWS: dict[str, dict[str, Any]] = OLD["views"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.url


def _migrate(url: str, *, down: bool = False, to: str = "0008") -> None:
    engine = sqlalchemy.create_engine(url)
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, to)
    engine.dispose()


def _write_old(url: str) -> None:
    _migrate(url)
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for name, rows in TABLES.items():
            if rows:
                table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=connection)
                connection.execute(table.insert(), rows)
    engine.dispose()


def _read_all(url: str) -> dict[str, list[dict[str, Any]]]:
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        found = {}
        for name in TABLES:
            table = sqlalchemy.Table(name, sqlalchemy.MetaData(), autoload_with=connection)
            rows = connection.execute(sqlalchemy.select(table).order_by(*table.primary_key.columns))
            found[name] = [dict(row) for row in rows.mappings()]
    engine.dispose()
    return found


INTERRUPTION = {"interruption": "", "interrupted_at": None}
NODE = {"node_condition": "", "node_reason": ""}
RESIZE = {"beside": False, "next_job_reason": "", "keeps_job": False}
OPERATION = {"reversed": False}
CLIENTS: dict[str, list[str]] = {"clients": []}
UPGRADE = {"follow": "", "offer": None}
"""Fields of views that the old registry did not have, and their values after its migration."""
PLACE = {"ahead": None, "expected_start_at": None}
"""Fields of views that the old registry had, and that Slurm's next answer brings."""


def _views(registry: Registry) -> dict[str, dict[str, Any]]:
    return {
        session.id: {
            "session": session.view().model_dump(mode="json"),
            "jobs": [job.view().model_dump(mode="json") for job in registry.jobs_of(session.id)],
        }
        for session in registry.by_ids(VIEWS)
    }


def _row(name: str) -> dict[str, Any]:
    return next(row for row in TABLES["session"] if row["name"] == name)


def test_the_old_registry_has_all_that_matters() -> None:
    """Of the states that end by themselves or not, and of what may be under way, each occurs."""
    sessions = TABLES["session"]
    wanted = {state.value for state in (LIVE | {SessionState.STOPPED, SessionState.FAILED, SessionState.DELETED})}
    assert wanted | {"changing"} <= {row["state"] for row in sessions}
    assert {"pending", "done"} <= {row["operation"]["status"] for row in sessions if row["operation"]}
    assert any(row["successor_job"] for row in sessions)
    assert any(row["successor"] and row["successor_job"] is None for row in sessions)
    assert any(row["resize"] for row in sessions)
    assert any(row["kept_until"] for row in sessions)
    assert max(row["submission"] for row in TABLES["job"]) > 1


def test_every_view_is_as_before(url: str) -> None:
    _write_old(url)
    expected = json.loads(json.dumps(VIEWS))
    # Slurm has requeued this job: its row tells of the present run, which has no node yet.
    images = {row["id"]: row["image_path"] for row in TABLES["session"]}
    expected[_row("requeued")["id"]]["jobs"][0] |= {"node": "", "started_at": None}
    with contextlib.closing(open_registry(url)) as registry:
        views = _views(registry)
        for session_id, view in expected.items():
            jobs = [job | INTERRUPTION for job in view["jobs"]]
            if (operation := view["session"]["operation"]) is not None:
                operation |= OPERATION
            session = view["session"] | INTERRUPTION | NODE | RESIZE | CLIENTS | UPGRADE | PLACE
            session |= {"image": images[session_id]}
            assert views[session_id] == {"session": session, "jobs": jobs}
        assert len(registry.events_of("alice")) == sum(row["owner"] == "alice" for row in TABLES["event"])


def test_what_is_not_shown_is_as_before(url: str) -> None:
    _write_old(url)
    hidden = ("attempted_at", "missing_since", "cancelled_at", "fingerprint", "port", "gpus", "idle_stop_at", "ends_at")
    with contextlib.closing(open_registry(url)) as registry:
        sessions = {session.id: session for session in registry.by_ids(VIEWS)}
        for row in TABLES["session"]:
            session = sessions[row["id"]]
            if row["submission"]:
                assert {name: getattr(session.job, name) for name in hidden} == {name: row[name] for name in hidden}
            assert (session.keys_digest, session.active_at) == (row["keys_digest"], row["active_at"])
            assert (session.continuation_in_force, session.idle_in_force) == (
                row["continuation"] or row["continuation_default"],
                row["idle"] or row["idle_default"],
            )
            assert session.next_job_id == row["successor_job"]
            assert session.resizing is (row["resize"] is not None)
            assert session.options_of(session.submission) == row["options"]
            if row["successor"]:
                assert session.options_of(session.successor) == (row["resize"] or row)["options"]
        cloning = sessions[_row("cloning")["id"]].pending
        assert cloning is not None
        assert cloning.arguments["gpus"] == 1.0


def test_a_migrated_session_changes_with_its_jobs(url: str) -> None:
    _write_old(url)
    with contextlib.closing(open_registry(url)) as registry:
        old = _row("shrinking")
        changed = registry.update(old["id"], lambda now: JobChange({"submission": now.successor, "successor": 0}, None))
        assert (changed.submission, changed.job.job_id, changed.next_job) == (2, 904, None)
        assert [job.submission for job in registry.jobs_of(old["id"])] == [1, 2]


def test_the_old_tables_come_back(url: str) -> None:
    """Down and up again: nothing is lost on the way."""
    _write_old(url)
    before = _read_all(url)
    _migrate(url, to="head")
    after = _read_all(url)
    _migrate(url, down=True)
    again = _read_all(url)
    for old, row in zip(before["session"], again["session"], strict=True):
        if old["name"] == "cloning":  # its operation has kept the GPUs, and it has no job
            continue
        lost = {name: None for name in PLACE if name in old}
        assert {name: row[name] for name in old} == old | lost
    _migrate(url, to="head")
    assert _read_all(url)["session"] == after["session"]
    assert len(_read_all(url)["job"]) == len(after["job"])


def test_names_are_unique_until_deleted_after_the_migration(url: str) -> None:
    """SQLite makes the table again for it, with its partial index."""
    _write_old(url)
    open_registry(url).close()
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        indexes = {each["name"]: each for each in sqlalchemy.inspect(connection).get_indexes("session")}
    engine.dispose()
    assert indexes["session_name"]["unique"]
    options = indexes["session_name"]["dialect_options"]
    assert any("deleted" in str(value) for value in options.values())
    assert {"session_state", "session_kept_until"} <= set(indexes)
