"""Masking policies by name and number."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "masking_policies",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("created", TEXT, nullable=False),
        sa.Column("signed", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="pk_masking_policies"),
    )
