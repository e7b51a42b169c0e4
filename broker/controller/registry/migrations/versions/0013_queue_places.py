"""Places in the queue leave the registry: they are computed from Slurm's last answer when a session is shown."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.drop_column("ahead")
        batch_op.drop_column("expected_start_at")


def downgrade() -> None:
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.add_column(sa.Column("expected_start_at", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("ahead", sa.Integer(), nullable=True))
