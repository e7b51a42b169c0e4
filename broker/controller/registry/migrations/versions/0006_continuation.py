"""Waiting successor jobs, and more columns of a job."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.add_column(sa.Column("submissions", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("successor", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("successor_job", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("successor_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("gpus", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("continuation", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("continuation_default", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("used_at", sa.Float(), nullable=True))
    op.execute("UPDATE session SET submissions = submission")
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("gpus", sa.Float(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("submitted_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("restarts", sa.Integer(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("reason", sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        for name in ("reason", "restarts", "submitted_at", "gpus"):
            batch_op.drop_column(name)
    with op.batch_alter_table("session", schema=None) as batch_op:
        for name in (
            "used_at",
            "continuation_default",
            "continuation",
            "gpus",
            "successor_at",
            "successor_job",
            "successor",
            "submissions",
        ):
            batch_op.drop_column(name)
