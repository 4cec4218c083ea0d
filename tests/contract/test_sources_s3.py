"""Sources on a real S3 server: the endpoint is said in the specification, the credentials in the environment."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lightmill.errors import LightmillError, NotFoundError
from tests.seaweed import REGION, SeaweedServer
from tests.unit.datasets.sources.reading import read, source, values


def test_files_on_s3_are_found_divided_and_read(seaweed: SeaweedServer, tmp_path: Path) -> None:
    for number in range(3):
        sink = io.BytesIO()
        pq.write_table(pa.table({"a": range(number * 10, number * 10 + 10)}), sink, row_group_size=4)
        seaweed.request("PUT", f"/{seaweed.bucket}/sources/{number}.parquet", sink.getvalue())
    seaweed.request("PUT", f"/{seaweed.bucket}/sources/d.csv", b"a\n1\n2\n3\n")
    where = {"endpoint": seaweed.endpoint, "region": REGION}
    base = f"s3://{seaweed.bucket}/sources"
    found = source(tmp_path, format="parquet", path=f"{base}/*.parquet", part_bytes=1, **where)
    assert len(found.parts()) == 9
    assert [row["a"] for row in values(found)] == list(range(30))
    assert [part.path for part in source(tmp_path, format="parquet", path=base, **where).parts()] == [
        f"{base}/{number}.parquet" for number in range(3)
    ]
    lines = source(tmp_path, {"a": pa.int64()}, path=f"{base}/d.csv", part_bytes=1, **where)
    assert read(lines) == ([(n, {"a": n + 1}) for n in range(3)], [])
    assert lines.describe()[0].sha256 == hashlib.sha256(b"a\n1\n2\n3\n").hexdigest()
    with pytest.raises(NotFoundError, match="absent"):
        source(tmp_path, path=f"{base}/absent.csv", **where)


def test_wrong_credentials_are_an_error_that_holds_none(
    seaweed: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-77")
    where = {"endpoint": seaweed.endpoint, "region": "eu-central-1"}
    with pytest.raises(LightmillError) as said:
        source(tmp_path, path=f"s3://{seaweed.bucket}/sources/d.csv", **where)
    assert "wrong-secret-77" not in str(said.value)
