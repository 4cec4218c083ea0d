"""What API keys may do, until when, and how much. Keys from before may do everything, as they could."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scopes", sa.JSON, nullable=False, server_default='["admin"]'))
    op.add_column("api_keys", sa.Column("limits", sa.JSON, nullable=False, server_default="{}"))
    for name in ("expires", "old_sha256", "old_until", "last_used"):
        op.add_column("api_keys", sa.Column(name, TEXT))
