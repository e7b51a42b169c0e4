"""The interruption before a job's present run, and the condition of its node."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

WORDS = ("interruption", "node_condition", "node_reason")


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("interrupted_at", sa.Float(), nullable=True))
        for name in WORDS:
            batch_op.add_column(sa.Column(name, sa.String(), nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        for name in ("interrupted_at", *WORDS):
            batch_op.drop_column(name)
