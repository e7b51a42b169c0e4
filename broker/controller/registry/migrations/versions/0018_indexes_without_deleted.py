"""Indexes of sessions without the rows of deleted ones, which no query of a tick needs."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

INDEXES = (
    ("session_state", ("state",), "state <> 'deleted'"),
    ("session_deleted_name", ("owner", "name"), "state = 'deleted'"),
    ("session_kept_until", ("kept_until",), "kept_until IS NOT NULL"),
)


def upgrade() -> None:
    op.drop_index("session_state", "session")
    op.drop_index("session_kept_until", "session")
    for name, columns, condition in INDEXES:
        where = sa.text(condition)
        op.create_index(name, "session", list(columns), sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, _, _ in INDEXES:
        op.drop_index(name, "session")
    op.create_index("session_state", "session", ["state"])
    op.create_index("session_kept_until", "session", ["kept_until"])
