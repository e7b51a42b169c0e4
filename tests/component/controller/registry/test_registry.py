"""The registry's promises, the same over SQLite and a real PostgreSQL server of the test's own."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import StatementError
from sqlmodel import SQLModel

from broker.controller.registry.credential_models import Key
from broker.controller.registry.database import MIGRATIONS, open_registry
from broker.controller.registry.filesystem import network_file_system
from broker.controller.registry.registry import EventEntry, JobChange, Registry
from broker.controller.registry.transactions import RegistryError
from broker.errors import ConflictError, InvalidInputError, NotFoundError
from broker.schema.sessions import Persistence, SessionState
from tests.fakes.rows import make_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.postgresql import PostgreSQL

START = EventEntry("alice", "start")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.db'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.url


@pytest.fixture
def registry(url: str) -> Iterator[Registry]:
    with contextlib.closing(open_registry(url)) as made:
        yield made


def test_a_session_comes_back_as_it_was_written(registry: Registry) -> None:
    made = registry.create(make_session(options=["--mem=8G", "--gres=gpu:intel:1"]), START)
    found = registry.find("alice", "dev")
    assert found is not None
    assert found.model_dump() == made.model_dump()
    assert found.state is SessionState.READY


def test_every_state_survives_the_round_trip_and_a_wrong_one_is_refused(registry: Registry) -> None:
    session = registry.create(make_session(), START)
    for state in SessionState:
        assert registry.update(session.id, lambda _, state=state: ({"state": state}, None)).state is state  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    with pytest.raises(StatementError):
        registry.update(session.id, lambda _: ({"state": "dancing"}, None))


def test_each_migration_is_named_after_its_revision_and_the_last_is_the_newest() -> None:
    """So a controller knows without Alembic whether it has to migrate."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    revisions = {Path(each.path).name.partition("_")[0]: each.revision for each in scripts.walk_revisions()}
    assert all(name == revision for name, revision in revisions.items())
    assert len(revisions) == len(list((MIGRATIONS / "versions").glob("[0-9]*.py")))
    assert scripts.get_current_head() == max(revisions)


def test_newest_tables_are_not_migrated(registry: Registry, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    made = registry.create(make_session(), START)
    monkeypatch.setattr(command, "upgrade", refuse)
    with contextlib.closing(open_registry(url)) as again:
        assert again.get(made.id) is not None


def test_names_are_unique_for_their_owner_until_deleted(registry: Registry) -> None:
    first = registry.create(make_session(), START)
    registry.create(make_session(owner="bob"), START)
    with pytest.raises(ConflictError):
        registry.create(make_session(), START)
    registry.update(first.id, lambda _: ({"state": SessionState.DELETED}, None))
    assert registry.find("alice", "dev") is None
    registry.create(make_session(), START)
    assert registry.get(first.id) is not None


def test_a_change_grows_the_revision_and_no_change_does_not(registry: Registry) -> None:
    session = registry.create(make_session(), START)
    changed = registry.update(session.id, lambda _: ({"reason": "why"}, EventEntry("berth", "told", "why")))
    assert changed.revision == session.revision + 1
    assert registry.update(session.id, lambda _: ({"reason": "why"}, None)).revision == changed.revision
    assert registry.update(session.id, lambda _: None).revision == changed.revision
    assert [event.action for event in registry.events_of("alice")] == ["start", "told"]


def test_of_many_writers_none_is_lost(registry: Registry) -> None:
    session = registry.create(make_session(restarts=0), START)
    errors: list[BaseException] = []

    def count() -> None:
        try:
            for _ in range(10):
                registry.update(session.id, lambda now: JobChange({}, None, job={"restarts": now.job.restarts + 1}))
        except BaseException as error:  # noqa: BLE001 - reported by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    after = registry.get(session.id)
    assert after is not None
    assert after.job.restarts == 40
    assert after.revision == 40


def test_a_decision_that_raises_changes_nothing(registry: Registry) -> None:
    session = registry.create(make_session(), START)

    def refuse(_: object) -> None:
        raise ConflictError("no")

    with pytest.raises(ConflictError):
        registry.update(session.id, refuse)
    after = registry.get(session.id)
    assert after is not None
    assert after.revision == 0


def test_each_submission_has_its_job_record(registry: Registry) -> None:
    session = registry.create(make_session(), START)
    registry.update(session.id, lambda _: JobChange({}, None, job={"job_id": 11, "node": "c1"}))
    registry.update(session.id, lambda _: JobChange({}, None, job={"outcome": "TIMEOUT", "ended_at": 5.0}))
    registry.update(session.id, lambda _: ({"submission": 2}, None))
    registry.update(session.id, lambda _: JobChange({}, None, job={"job_id": 12}))
    first, second = registry.jobs_of(session.id)
    assert (first.job_id, first.node, first.outcome, first.ended_at) == (11, "c1", "TIMEOUT", 5.0)
    assert (second.job_id, second.outcome) == (12, "")


def test_keys_belong_to_one_user(registry: Registry) -> None:
    for owner in ("alice", "bob"):
        registry.add_key(Key(owner=owner, fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA", added_at=1.0))
    with pytest.raises(ConflictError):
        registry.add_key(Key(owner="bob", fingerprint="SHA256:x", public_key="ssh-ed25519 AAAA", added_at=1.0))
    registry.remove_key("bob", "SHA256:x")
    with pytest.raises(NotFoundError):
        registry.remove_key("bob", "SHA256:x")
    assert len(registry.keys_of("alice")) == 1


def test_the_migrations_make_what_the_models_say(url: str) -> None:
    open_registry(url).close()
    open_registry(url).close()  # a second time changes nothing
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, SQLModel.metadata)
    engine.dispose()
    assert differences == []


def _under_the_first_tables(url: str) -> None:
    """A registry of before, with a session and its job."""
    engine = sqlalchemy.create_engine(url)
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        session = make_session(owner="alice")
        old = session.job.model_dump() | session.model_dump() | {"expected_start_at": 2.0}
        table = sqlalchemy.Table("session", sqlalchemy.MetaData(), autoload_with=connection)
        values = {column.name: old[column.name] for column in table.columns}
        values |= {"state": "stopped", "options": ["--mem=1G"], "job_id": 7, "node": "c1"}
        connection.execute(table.insert().values(values))
        job = sqlalchemy.Table("job", sqlalchemy.MetaData(), autoload_with=connection)
        carried = {"session_id": old["id"], "submission": 1, "job_id": 7, "node": "c1", "asked_at": 1.0, "outcome": ""}
        connection.execute(job.insert().values(carried))
    engine.dispose()


def test_sessions_of_before_are_taken_over(url: str) -> None:
    """Rows that were written under the first tables can be read, with the policy that held then."""
    _under_the_first_tables(url)
    with contextlib.closing(open_registry(url)) as registry:
        session = registry.find("alice", "dev")
        assert session is not None
        assert (session.policy, session.volumes, session.pending, session.root) == (Persistence(), None, None, False)
        assert session.view().options == ["--mem=1G"]
        assert [(record.job_id, record.node) for record in registry.jobs_of(session.id)] == [(7, "c1")]
        changed = registry.update(session.id, lambda _: ({"state": SessionState.CHANGING}, None))
        assert changed.state is SessionState.CHANGING


def test_a_migration_that_dies_half_way_has_changed_nothing(url: str) -> None:
    """The next one begins where the first began."""
    _under_the_first_tables(url)

    def dying(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if "kept_until" in statement and "CREATE INDEX" in statement:
            raise OSError("the power is gone")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", dying)
    try:
        with pytest.raises(RegistryError, match="the power is gone"):
            open_registry(url)
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", dying)
    with contextlib.closing(open_registry(url)) as registry:
        assert registry.find("alice", "dev") is not None


def test_a_damaged_file_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(RegistryError) as failure:
        open_registry(f"sqlite:///{path}")
    assert "rebuild" in failure.value.hint


@pytest.mark.parametrize("url", ["sqlite://", "not a url"])
def test_a_url_that_cannot_hold_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        open_registry(url)


def test_network_file_systems_are_recognised(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "1 0 8:1 / / rw - ext4 /dev/root rw\n"
        "2 1 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw\n"
        "3 2 8:2 / /home/local\\040disk rw - xfs /dev/sdb rw\n"
    )
    assert network_file_system(Path("/home/alice/x"), mountinfo) == "nfs4"
    assert network_file_system(Path("/home/local disk/x"), mountinfo) == ""
    assert network_file_system(Path("/homework"), mountinfo) == ""


def test_the_name_of_a_users_mount_point_says_nothing_about_others(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(
        b"1 0 8:1 / / rw - ext4 /dev/root rw\n"
        b"2 1 0:40 / /home/bob/a\r2\x851\xe2\x80\xa80:40 rw - fuse.sshfs bob@x: rw\n"
        b"3 1 0:41 / /home/bob/\xff\xc3\xa4\\134 rw - nfs4 server:/x rw\n"
    )
    assert network_file_system(Path("/var/lib/berth"), mountinfo) == ""
    assert network_file_system(Path(os.fsdecode(b"/home/bob/\xff\xc3\xa4\\/x")), mountinfo) == "nfs4"
