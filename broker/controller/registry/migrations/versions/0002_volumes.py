"""Columns of a session's policy and volumes, of the operation on them, and of how long a deleted session is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.add_column(sa.Column("first_start", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("persistence", sa.JSON(), nullable=False, server_default="{}"))
        batch_op.add_column(sa.Column("persistence_chosen", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("volumes", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("operation", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("root", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch_op.add_column(sa.Column("kept_until", sa.Float(), nullable=True))
        batch_op.create_index("session_kept_until", ["kept_until"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.drop_index("session_kept_until")
        for name in (
            "kept_until",
            "root",
            "operation",
            "volumes",
            "persistence_chosen",
            "persistence",
            "first_start",
        ):
            batch_op.drop_column(name)
