"""The last use of a session, its idle time, and the number of jobs before its own."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TIMES = ("idle_since", "gpu_idle_since", "active_at", "idle_stop_at")
WORDS = ("idle", "idle_default", "stop_reason")


def upgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.add_column(sa.Column("ahead", sa.Integer(), nullable=True))
        for name in TIMES:
            batch_op.add_column(sa.Column(name, sa.Float(), nullable=True))
        for name in WORDS:
            batch_op.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        for name in ("ahead", *WORDS, *TIMES):
            batch_op.drop_column(name)
