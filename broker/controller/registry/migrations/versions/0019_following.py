"""The channel that a session follows, the version that is offered to it, and those that are held back."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.add_column(sa.Column("follow", sa.String(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("offer", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("held_versions", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("session", schema=None) as batch_op:
        batch_op.drop_column("held_versions")
        batch_op.drop_column("offer")
        batch_op.drop_column("follow")
