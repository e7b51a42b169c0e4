"""The facts about a session's present job and its successor move from the session's row to the jobs' rows."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

MOVED: dict[str, tuple[sa.types.TypeEngine[Any], Any]] = {
    "fingerprint": (sa.String(), ""),
    "continuation_default": (sa.String(), ""),
    "idle_default": (sa.String(), ""),
    "port": (sa.Integer(), 0),
    "attempted_at": (sa.Float(), None),
    "expected_start_at": (sa.Float(), None),
    "ends_at": (sa.Float(), None),
    "missing_since": (sa.Float(), None),
    "cancelled_at": (sa.Float(), None),
    "successor_at": (sa.Float(), None),
    "idle_since": (sa.Float(), None),
    "gpu_idle_since": (sa.Float(), None),
    "idle_stop_at": (sa.Float(), None),
    "ahead": (sa.Integer(), None),
}
"""Columns of the session's row that the job's row gets: their types, and the values of a session without a job."""

SHARED: dict[str, tuple[sa.types.TypeEngine[Any], Any]] = {
    "node": (sa.String(), ""),
    "outcome": (sa.String(), ""),
    "gpus": (sa.Float(), 0.0),
    "restarts": (sa.Integer(), 0),
    "job_id": (sa.BigInteger(), None),
    "submitted_at": (sa.Float(), None),
    "started_at": (sa.Float(), None),
    "ended_at": (sa.Float(), None),
}
"""Columns that both rows had; the session's has the present values."""

BOTH = MOVED | SHARED


def _rows(*columns: str) -> sa.TableClause:
    return sa.table("session", sa.column("id"), *(sa.column(name, _type(name)) for name in columns))


def _jobs() -> sa.TableClause:
    names = ("session_id", "submission", "asked_at", "reason", "resizes", *BOTH)
    return sa.table("job", *map(sa.column, names), sa.column("options", sa.JSON()))


def _type(name: str) -> sa.types.TypeEngine[Any] | None:
    return sa.JSON() if name in {"options", "resize", "operation"} else None


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        for name, (kind, empty) in MOVED.items():
            batch_op.add_column(_column(name, kind, empty))
        batch_op.add_column(sa.Column("options", sa.JSON(), nullable=False, server_default="[]"))
        batch_op.add_column(sa.Column("resizes", sa.Boolean(), nullable=False, server_default=sa.false()))
    _fill_jobs()
    with op.batch_alter_table("session", schema=None) as batch_op:
        for name in (*BOTH, "successor_job", "resize"):
            batch_op.drop_column(name)


def _column(name: str, kind: sa.types.TypeEngine[Any], empty: str | float | None) -> sa.Column[Any]:
    default = None if empty is None else sa.text("''") if empty == "" else sa.text(str(empty))
    return sa.Column(name, kind, nullable=empty is None, server_default=default)


def _fill_jobs() -> None:
    connection = op.get_bind()
    names = ("created_at", "submission", "successor", "successor_job", "resize", "options", "operation", *BOTH)
    session = _rows(*names)
    known = {
        (row.session_id, row.submission)
        for row in connection.execute(sa.text("SELECT session_id, submission FROM job"))
    }
    present, new, operations = [], [], []
    for row in connection.execute(sa.select(session)).mappings():
        resize = row["resize"] or {}
        job = {name: row[name] for name in BOTH} | {"options": row["options"], "resizes": False}
        asked_at = row["submitted_at"] or row["created_at"]
        if row["submission"]:
            key = {"session_id": row["id"], "submission": row["submission"]}
            if tuple(key.values()) in known:
                present.append(job | {"its_session": row["id"], "its_submission": row["submission"]})
            else:
                new.append(key | job | {"asked_at": asked_at, "reason": ""})
        elif row["gpus"] and row["operation"]:  # a clone that is to start: it has no job yet
            arguments = row["operation"]["arguments"] | {"gpus": row["gpus"]}
            operations.append({"its_session": row["id"], "operation": row["operation"] | {"arguments": arguments}})
        if row["successor"]:
            empty = {name: empty for name, (_, empty) in BOTH.items()}
            inherited = {name: row[name] for name in ("gpus", "continuation_default", "idle_default")}
            new.append(
                empty
                | inherited
                | {"options": row["options"]}
                | resize
                | {
                    "session_id": row["id"],
                    "submission": row["successor"],
                    "job_id": row["successor_job"],
                    "asked_at": row["successor_at"] or asked_at,
                    "attempted_at": row["successor_at"],
                    "resizes": bool(resize),
                    "reason": "",
                }
            )
    jobs = _jobs()
    if present:
        values: dict[Any, Any] = {name: sa.bindparam(name) for name in present[0] if not name.startswith("its_")}
        where = (jobs.c.session_id == sa.bindparam("its_session"), jobs.c.submission == sa.bindparam("its_submission"))
        connection.execute(jobs.update().where(*where).values(values), present)
    if new:
        connection.execute(jobs.insert(), new)
    if operations:
        _write_sessions(operations, "operation")


def _write_sessions(rows: list[dict[str, Any]], *names: str) -> None:
    session = _rows(*names)
    values: dict[Any, Any] = {name: sa.bindparam(name) for name in names}
    op.get_bind().execute(session.update().where(session.c.id == sa.bindparam("its_session")).values(values), rows)


def downgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        for name, (kind, empty) in BOTH.items():
            batch_op.add_column(_column(name, kind, empty))
        batch_op.add_column(sa.Column("successor_job", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("resize", sa.JSON(), nullable=True))
    connection = op.get_bind()
    session, job, successor = _rows("submission", "successor"), _jobs(), _jobs().alias("successor_row")
    carried = sa.and_(job.c.session_id == session.c.id, job.c.submission == session.c.submission)
    follows = sa.and_(successor.c.session_id == session.c.id, successor.c.submission == session.c.successor)
    columns = [job.c[name] for name in BOTH]
    of_next = [
        successor.c[name].label(f"next_{name}") for name in ("job_id", "attempted_at", "options", "gpus", "resizes")
    ]
    query = sa.select(session.c.id.label("its_session"), *columns, *of_next).select_from(
        session.join(job, carried).outerjoin(successor, follows)
    )
    rows = []
    for row in connection.execute(query).mappings():
        resize = {"options": row["next_options"], "gpus": row["next_gpus"]} if row["next_resizes"] else None
        rows.append(
            {name: row[name] for name in ("its_session", *BOTH)}
            | {"successor_job": row["next_job_id"], "resize": resize}
            | {"successor_at": row["next_attempted_at"] or row["successor_at"]}
        )
    if rows:
        _write_sessions(rows, *BOTH, "successor_job", "resize")
    number = sa.select(session.c.submission).where(session.c.id == job.c.session_id).scalar_subquery()
    connection.execute(job.delete().where(job.c.submission > number))
    with op.batch_alter_table("job", schema=None) as batch_op:
        for name in (*MOVED, "options", "resizes"):
            batch_op.drop_column(name)
