"""The stop time of a session, and the resources of its next job."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.add_column(sa.Column("stop_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("resize", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("stays", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.drop_column("stays")
        batch_op.drop_column("resize")
        batch_op.drop_column("stop_at")
