"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    _create_assets()
    _create_endpoints()
    _create_jobs()
    _create_keys()


def _create_assets() -> None:
    op.create_table(
        "assets",
        sa.Column("mid", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("workspace", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("mid", name="pk_assets"),
        sa.UniqueConstraint("kind", "name", name="uq_assets_kind_name"),
    )
    op.create_table(
        "versions",
        sa.Column("mid", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("created", TEXT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("provenance", JSON, nullable=False),
        sa.Column("card", JSON, nullable=False),
        sa.Column("dataset_digest", TEXT),
        sa.PrimaryKeyConstraint("mid", "seq", name="pk_versions"),
        sa.ForeignKeyConstraint(["mid"], ["assets.mid"], name="fk_versions_mid"),
    )
    op.create_index("ix_versions_dataset_digest", "versions", ["dataset_digest"])
    op.create_table(
        "aliases",
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("alias", TEXT, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", "alias", name="pk_aliases"),
    )
    op.create_table(
        "marks",
        sa.Column("mid", TEXT, nullable=False),
        sa.Column("stream", TEXT, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("digest", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("mid", "stream", name="pk_marks"),
    )


def _create_endpoints() -> None:
    op.create_table(
        "endpoints",
        sa.Column("name", TEXT, nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("deleted", sa.Boolean, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("version", JSON),
        sa.Column("replicas", sa.Integer, nullable=False),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("created", TEXT, nullable=False),
        sa.Column("updated", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_endpoints"),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("message", TEXT, nullable=False),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("result", JSON, nullable=False),
        sa.Column("submission_id", TEXT),
        sa.Column("created", TEXT, nullable=False),
        sa.Column("started", TEXT),
        sa.Column("finished", TEXT),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_created_id", "jobs", ["created", "id"])
    op.create_table(
        "epochs",
        sa.Column("run", TEXT, nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("created", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("run", "epoch", name="pk_epochs"),
    )


def _create_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("secret_sha256", TEXT, nullable=False),
        sa.Column("role", TEXT, nullable=False),
        sa.Column("created", TEXT, nullable=False),
        sa.Column("revoked", TEXT),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_table(
        "facts",
        sa.Column("key", TEXT, nullable=False),
        sa.Column("value", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_facts"),
    )
