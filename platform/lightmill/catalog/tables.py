"""The tables, as the newest migration leaves them.

Text compares by bytes on every database, so that both sort alike. Timestamps are the ISO strings of
`records.base.now_iso`, which sort as time does. A test compares these tables with what the migrations make.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    column,
)

HEAD = "0006"
"""The revision of these tables; revisions are numbers, so that a newer one can be told from an older one."""

REVISION_TABLE = "lightmill_revision"


class _StrictJSON(TypeDecorator[Any]):
    """JSON that refuses NaN, infinities and foreign types before a driver sees them, alike everywhere."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        json.dumps(value, allow_nan=False)
        return value


_text = Text().with_variant(Text(collation="C"), "postgresql")
_json = _StrictJSON(none_as_null=True)


def _live_index(*columns: str) -> Index:
    """Return an index of the versions that are not deleted, so that a search reads their rows only to show them."""
    live = column("deleted").is_(None)
    return Index(None, *columns, sqlite_where=live, postgresql_where=live)


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

revisions = Table(REVISION_TABLE, MetaData(), Column("version_num", Text))

assets = Table(
    "assets",
    metadata,
    Column("mid", _text, primary_key=True),
    Column("kind", _text, nullable=False),
    Column("name", _text, nullable=False),
    Column("workspace", _text, nullable=False),
    UniqueConstraint("kind", "name"),
)

# kind repeats the asset's, dataset_digest and base_digest repeat what provenance says: so that a page of versions and
# lineage are one indexed look-up. stage, tags, text and evaluations are the sum of the annotations.
versions = Table(
    "versions",
    metadata,
    Column("mid", _text, ForeignKey("assets.mid"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", _text, nullable=False),
    Column("created", _text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("metrics", _json, nullable=False),
    Column("provenance", _json, nullable=False),
    Column("card", _json, nullable=False),
    Column("dataset_digest", _text),
    Column("base_digest", _text),
    Column("kind", _text, nullable=False),
    Column("stage", _text, nullable=False),
    Column("tags", _json, nullable=False),
    Column("text", _json, nullable=False),
    Column("evaluations", _json, nullable=False),
    Column("deleted", _json),
    Index(None, "dataset_digest"),
    Index(None, "base_digest"),
    _live_index("kind", "created", "mid", "seq"),
    _live_index("kind", "stage", "created", "mid", "seq"),
    _live_index("kind", "size_bytes", "mid", "seq"),
)

# What people search by, one row a metric and one a tag; `versions` holds the same as JSON, to show.
version_metrics = Table(
    "version_metrics",
    metadata,
    Column("mid", _text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("name", _text, primary_key=True),
    Column("value", Double, nullable=False),
    ForeignKeyConstraint(["mid", "seq"], ["versions.mid", "versions.seq"]),
    Index(None, "name", "value", "mid", "seq"),
)

version_tags = Table(
    "version_tags",
    metadata,
    Column("mid", _text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("key", _text, primary_key=True),
    Column("value", _text, nullable=False),
    ForeignKeyConstraint(["mid", "seq"], ["versions.mid", "versions.seq"]),
    Index(None, "key", "value", "mid", "seq"),
)

# No reference to versions: the store may move an alias before the reconciler has listed the version here.
aliases = Table(
    "aliases",
    metadata,
    Column("kind", _text, primary_key=True),
    Column("name", _text, primary_key=True),
    Column("alias", _text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("n", BigInteger, nullable=False),
    Index(None, "kind", "alias", "name"),
)

marks = Table(
    "marks",
    metadata,
    Column("mid", _text, primary_key=True),
    Column("stream", _text, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("digest", _text, nullable=False),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("name", _text, primary_key=True),
    Column("spec", _json, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("state", _text, nullable=False),
    Column("version", _json),
    Column("replicas", Integer, nullable=False),
    Column("message", _text, nullable=False),
    Column("created", _text, nullable=False),
    Column("updated", _text, nullable=False),
)

traffic = Table(
    "traffic",
    metadata,
    Column("endpoint", _text, primary_key=True),
    Column("state", _json),
    Column("asked", _json),
    Column("updated", _text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", _text, primary_key=True),
    Column("kind", _text, nullable=False),
    Column("name", _text, nullable=False),
    Column("state", _text, nullable=False),
    Column("spec", _json, nullable=False),
    Column("message", _text, nullable=False),
    Column("progress", _json, nullable=False),
    Column("result", _json, nullable=False),
    Column("submission_id", _text),
    Column("created", _text, nullable=False),
    Column("started", _text),
    Column("finished", _text),
    Index(None, "created", "id"),
)

epochs = Table(
    "epochs",
    metadata,
    Column("run", _text, primary_key=True),
    Column("epoch", Integer, primary_key=True, autoincrement=False),
    Column("metrics", _json, nullable=False),
    Column("created", _text, nullable=False),
)

steps = Table(
    "steps",
    metadata,
    Column("run", _text, primary_key=True),
    Column("step", BigInteger, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False),
    Column("metrics", _json, nullable=False),
    Column("created", _text, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _text, primary_key=True),
    Column("name", _text, nullable=False),
    Column("secret_sha256", _text, nullable=False),
    Column("role", _text, nullable=False),
    Column("created", _text, nullable=False),
    Column("revoked", _text),
    Column("scopes", _json, nullable=False, server_default='["admin"]'),
    Column("limits", _json, nullable=False, server_default="{}"),
    Column("expires", _text),
    Column("old_sha256", _text),
    Column("old_until", _text),
    Column("last_used", _text),
)

# `signed` is what counts and is verified by whoever reads it; the other columns find it.
masking_policies = Table(
    "masking_policies",
    metadata,
    Column("name", _text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("created", _text, nullable=False),
    Column("signed", _text, nullable=False),
)

facts = Table(
    "facts",
    metadata,
    Column("key", _text, primary_key=True),
    Column("value", _text, nullable=False),
)
