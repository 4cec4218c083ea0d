"""Annotations, tombstones, and what is searched by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    # The defaults are for the rows that are there; new rows always say what they are.
    with op.batch_alter_table("versions") as table:
        table.add_column(sa.Column("base_digest", TEXT))
        table.add_column(sa.Column("kind", TEXT, nullable=False, server_default=""))
        table.add_column(sa.Column("stage", TEXT, nullable=False, server_default="none"))
        table.add_column(sa.Column("tags", JSON, nullable=False, server_default="{}"))
        table.add_column(sa.Column("text", JSON, nullable=False, server_default="{}"))
        table.add_column(sa.Column("evaluations", JSON, nullable=False, server_default="[]"))
        table.add_column(sa.Column("deleted", JSON))
    _fill_kind()
    # Before anything refers to it: SQLite copies the table to change a column.
    with op.batch_alter_table("versions") as table:
        for name in ("kind", "stage", "tags", "text", "evaluations"):
            table.alter_column(name, server_default=None)
    _create_search_tables()
    _fill_metrics()
    op.create_index("ix_versions_base_digest", "versions", ["base_digest"])
    op.create_index("ix_aliases_kind_alias_name", "aliases", ["kind", "alias", "name"])
    live = sa.column("deleted").is_(None)
    for columns in (["created"], ["stage", "created"], ["size_bytes"]):
        name, key = "_".join(["ix_versions_kind", *columns, "mid_seq"]), ["kind", *columns, "mid", "seq"]
        op.create_index(name, "versions", key, sqlite_where=live, postgresql_where=live)


def _create_search_tables() -> None:
    for table, key, value in (("version_metrics", "name", sa.Double), ("version_tags", "key", TEXT)):
        op.create_table(
            table,
            sa.Column("mid", TEXT, nullable=False),
            sa.Column("seq", sa.BigInteger, nullable=False),
            sa.Column(key, TEXT, nullable=False),
            sa.Column("value", value, nullable=False),
            sa.PrimaryKeyConstraint("mid", "seq", key, name=f"pk_{table}"),
            sa.ForeignKeyConstraint(["mid", "seq"], ["versions.mid", "versions.seq"], name=f"fk_{table}_mid"),
        )
        op.create_index(f"ix_{table}_{key}_value_mid_seq", table, [key, "value", "mid", "seq"])


def _fill_kind() -> None:
    assets = sa.table("assets", sa.column("mid"), sa.column("kind"))
    versions = sa.table("versions", sa.column("mid"), sa.column("kind"))
    kind = sa.select(assets.c.kind).where(assets.c.mid == versions.c.mid).scalar_subquery()
    op.get_bind().execute(sa.update(versions).values(kind=kind))


def _fill_metrics() -> None:
    connection = op.get_bind()
    versions = sa.table("versions", sa.column("mid"), sa.column("seq"), sa.column("metrics", sa.JSON))
    metrics = sa.table("version_metrics", *(sa.column(name) for name in ("mid", "seq", "name", "value")))
    rows = [
        {"mid": row.mid, "seq": row.seq, "name": name, "value": float(value)}
        for row in connection.execute(sa.select(versions.c.mid, versions.c.seq, versions.c.metrics))
        for name, value in row.metrics.items()
    ]
    if rows:
        connection.execute(sa.insert(metrics), rows)
