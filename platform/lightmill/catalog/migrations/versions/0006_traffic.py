"""How far the candidates of endpoints have come, and what somebody asked to be done with them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "traffic",
        sa.Column("endpoint", TEXT, nullable=False),
        sa.Column("state", sa.JSON),
        sa.Column("asked", sa.JSON),
        sa.Column("updated", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("endpoint", name="pk_traffic"),
    )
