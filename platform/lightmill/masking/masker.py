"""The masker: a policy and a key, applied to tables and to single texts."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lightmill.errors import RequestError
from lightmill.masking.columns import Columns, TableWork, paths_of
from lightmill.masking.detector import Detector
from lightmill.masking.finding import Finder
from lightmill.masking.keys import MaskingKey
from lightmill.masking.names import NameDetector
from lightmill.masking.planning import text_plan
from lightmill.masking.registry import DETECTORS, detectors_named
from lightmill.masking.whole import RowIds
from lightmill.records.masking import MaskingPolicy, MaskingReport, masked_counts

ENGINE = 1
"""Part of the fingerprint; it grows when the same policy and key would mask the same rows differently."""


class Masker:
    """Applies a masking policy. It holds the key, so it does not pickle or copy, and its repr shows the name only.

    One masker may serve several threads.
    """

    def __init__(
        self,
        policy: MaskingPolicy,
        key: bytes | None = None,
        *,
        tags: Mapping[str, Sequence[str]] | None = None,
        detectors: Mapping[str, Detector] = DETECTORS,
    ) -> None:
        """Prepare a policy.

        Args:
            policy: What is hidden and how.
            key: At least 32 secret bytes; may be None where the policy has no pseudonyms, tokens or noise.
            tags: The tags of columns, by column name, as the dataset's specification declares them.
            detectors: The known detectors by name, strongest first.

        Raises:
            RequestError: A detector does not exist or cannot be loaded, or the key is missing or too short.
        """
        self._policy = policy
        self._tags = {column: tuple(found) for column, found in (tags or {}).items()}
        if policy.keyed() and key is None:
            raise RequestError(
                f"masking policy {policy.name!r} has pseudonyms, tokens or noise, which need a key; give one of at "
                "least 32 bytes, made by secrets.token_bytes(32)."
            )
        self._key = MaskingKey(key, policy.name) if key is not None else None
        for rule in policy.rules:
            for detector in detectors_named(rule.detectors, detectors, f"masking policy {policy.name!r}"):
                if isinstance(detector, NameDetector):
                    detector.load()
        self._texts = Finder(text_plan(policy, detectors), self._key)
        self._columns = Columns(policy, self._tags, detectors, self._key)

    def __repr__(self) -> str:
        return f"Masker({self._policy.name!r}, version={self._policy.version})"

    @property
    def policy(self) -> MaskingPolicy:
        """Return the policy."""
        return self._policy

    @property
    def fingerprint(self) -> str:
        """Return 64 hex digits for lineage: they change with the policy, the tags, the key and this room's methods."""
        what: dict[str, Any] = {
            "engine": ENGINE,
            "policy": self._policy.model_dump(mode="json"),
            "tags": self._tags,
            "key": self._key.check_value() if self._key and self._policy.keyed() else None,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def text(self, text: str) -> str:
        """Return a text with what the rules without columns and tags find in it masked: for gateways and log lines."""
        return self._texts.text(text)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the schema of masked tables.

        Raises:
            RequestError: As `apply` does.
        """
        return self.apply(schema.empty_table(), np.empty(0, dtype=np.int64))[0].schema

    def apply(self, table: pa.Table, row_ids: RowIds | pa.Array | None = None) -> tuple[pa.Table, MaskingReport]:
        """Return the masked table and what was done, which holds no value.

        Args:
            table: Any columns; text inside lists, structs and maps is masked too.
            row_ids: int64 [rows], unique in the dataset and the same in a rerun; only noise needs them.

        Raises:
            RequestError: A rule names a column that is not there or whose type its action cannot treat, a name stands
                twice, text is not UTF-8, or noise has no row ids.
        """
        self._check_names(table.schema)
        work = TableWork(self._columns, _as_row_ids(row_ids, table.num_rows))
        fields: list[pa.Field] = []
        columns: list[pa.ChunkedArray] = []
        for field, column in zip(table.schema, table.columns, strict=True):
            masked = work.column(field.name, column)
            if masked is not None:
                columns.append(masked)
                fields.append(field.with_type(masked.type).with_nullable(True) if masked.type != field.type else field)
        done = pa.Table.from_arrays(columns, schema=pa.schema(fields, table.schema.metadata))
        return done, MaskingReport(
            policy=self._policy.name,
            version=self._policy.version,
            fingerprint=self.fingerprint,
            rows=table.num_rows,
            counts=masked_counts(work.counts),
            epsilon=dict(sorted(work.epsilon.items())),
        )

    def _check_names(self, schema: pa.Schema) -> None:
        twice = sorted(name for name, count in Counter(schema.names).items() if count > 1)
        if twice:
            raise RequestError(f"masking needs one column for each name, but {twice} stand twice; rename them.")
        paths = {path for field in schema for path in paths_of(field.name, field.type)}
        for place, rule in enumerate(self._policy.rules):
            missing = sorted(set(rule.columns) - paths - {"*"})
            if missing:
                raise RequestError(
                    f"masking policy {self._policy.name!r}: rules.{place}.columns names {missing}, which the data does "
                    f"not have (it has {', '.join(schema.names[:20])}); correct the name, or use tags."
                )


def _as_row_ids(row_ids: RowIds | pa.Array | None, rows: int) -> RowIds | None:
    if row_ids is None:
        return None
    ids = np.asarray(row_ids)
    if not np.issubdtype(ids.dtype, np.integer) or ids.shape != (rows,):
        raise RequestError(
            f"row_ids must be {rows} whole numbers, one for each row; given {ids.dtype} of shape {list(ids.shape)}."
        )
    return ids.astype(np.int64)
