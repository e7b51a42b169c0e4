"""Logins by an OpenID provider, and its logout tokens that were used."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("delegation", schema=None) as batch_op:
        batch_op.add_column(sa.Column("issuer", sa.String(length=2048), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("subject", sa.String(length=255), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("provider_session", sa.String(length=255), nullable=False, server_default=""))
        batch_op.create_index("ix_delegation_subject", ["subject"])
    op.create_table(
        "usedlogouttoken",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("forget_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_index("ix_usedlogouttoken_forget_at", "usedlogouttoken", ["forget_at"])


def downgrade() -> None:
    op.drop_table("usedlogouttoken")
    with op.batch_alter_table("delegation", schema=None) as batch_op:
        batch_op.drop_index("ix_delegation_subject")
        for name in ("provider_session", "subject", "issuer"):
            batch_op.drop_column(name)
