"""Several sources as one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.datasets.sources import Source, combine
from lightmill.errors import RequestError
from lightmill.records.sources import JoinSpec, UnionSpec
from tests.unit.datasets.sources.reading import at, read, source, values


def table(folder: Path, name: str, **columns: Any) -> Source:
    pq.write_table(pa.table(columns), folder / f"{name}.parquet", row_group_size=2)
    return source(folder, format="parquet", path=f"{name}.parquet", part_bytes=1)


def join(**spec: Any) -> JoinSpec:
    return JoinSpec.model_validate({"how": "join", "on": ["k"], **spec})


def test_one_source_stays_itself_and_none_is_refused(tmp_path: Path) -> None:
    only = table(tmp_path, "a", x=[1])
    assert combine([only], UnionSpec()) is only
    with pytest.raises(RequestError, match="names no source"):
        combine([], UnionSpec())


def test_a_union_goes_on_with_row_ids_and_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("y,x\nu,7\nbad\nv,8\n")
    both = combine(
        [
            table(tmp_path, "a", x=[1, 2, 3], y=["p", "q", "r"]),
            source(tmp_path, {"x": pa.int64(), "y": pa.string()}, path="c.csv"),
            table(tmp_path, "b", y=["z"], x=[9]),
        ],
        UnionSpec(),
    )
    rows, bad = read(both)
    assert [(id, row["x"]) for id, row in rows] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (at(1, 0), 7),
        (at(1, 2), 8),
        (at(2, 0), 9),
    ]
    assert [(b.file, b.path, b.row) for b in bad] == [(1, "c.csv", 1)]
    assert [part.number for part in both.parts()] == list(range(4))
    assert [file.name for file in both.describe()] == ["a.parquet", "c.csv", "b.parquet"]


def test_a_union_of_other_columns_is_refused_or_filled(tmp_path: Path) -> None:
    sources = [table(tmp_path, "a", x=[1]), table(tmp_path, "b", x=[2], y=["q"])]
    with pytest.raises(RequestError, match=r"Source 0 of the union lacks the columns y.*fill_nulls"):
        combine(sources, UnionSpec()).schema()
    assert values(combine(sources, UnionSpec(fill_nulls=True))) == [{"x": 1, "y": None}, {"x": 2, "y": "q"}]
    with pytest.raises(RequestError, match="Source 1 of the union has 'x' as int64, another as string|as string"):
        combine([table(tmp_path, "c", x=["1"]), sources[1]], UnionSpec(fill_nulls=True)).schema()


def test_a_join_keeps_the_left_rows_and_their_ids(tmp_path: Path) -> None:
    left = table(tmp_path, "l", k=["a", "b", None, "c", "a"], x=[1, 2, 3, 4, 5])
    right = table(tmp_path, "r", y=[10, 20, 30], k=["a", "c", None])
    rows, _ = read(combine([left, right], join()))
    assert [(id, row["x"], row["y"]) for id, row in rows] == [
        (0, 1, 10),
        (1, 2, None),
        (2, 3, None),
        (3, 4, 20),
        (4, 5, 10),
    ]
    rows, _ = read(combine([left, right], join(kind="inner")))
    assert [(id, row["y"]) for id, row in rows] == [(0, 10), (3, 20), (4, 10)]
    assert len(combine([left, right], join()).describe()) == 2


def test_a_key_that_comes_twice_on_the_right_is_refused_unless_allowed(tmp_path: Path) -> None:
    left = table(tmp_path, "l", k=[1, 2], x=["p", "q"])
    right = table(tmp_path, "r", k=[1, 1, 2], y=["u", "v", "w"])
    with pytest.raises(RequestError, match=r"1 rows whose key \(k\) another row has too.*combine\.many"):
        read(combine([left, right], join()))
    rows, _ = read(combine([left, right], join(many=True)))
    assert [(id, row["y"]) for id, row in rows] == [(0, "u"), (0, "v"), (1, "w")]


@pytest.mark.parametrize(
    ("right", "spec", "said"),
    [
        ({"y": [1]}, {}, "right source of the join has no column 'k'"),
        ({"k": ["1"]}, {}, "'k' is int64 on the left and string on the right"),
        ({"k": [1], "x": [1]}, {}, "Both sources of the join have a column 'x'"),
        ({"k": [1, 2, 3], "y": [1, 2, 3]}, {"right_rows": 2}, "more than 2 rows"),
        ({"k": [1, 2, 3], "y": [1, 2, 3]}, {"right_bytes": 9}, "9 bytes"),
        ({"k": [1]}, {"on": ["z"]}, "left source of the join has no column 'z'"),
    ],
)
def test_joins_that_cannot_be_are_refused(tmp_path: Path, right: dict, spec: dict, said: str) -> None:
    sources = [table(tmp_path, "l", k=[1], x=[2]), table(tmp_path, "r", **right)]
    with pytest.raises(RequestError, match=said):
        read(combine(sources, join(**spec)))
    with pytest.raises(RequestError, match="takes two sources, not 3"):
        combine([*sources, sources[0]], join())


KEYS = st.lists(st.tuples(st.none() | st.integers(0, 3), st.sampled_from(["p", "q"])), max_size=12)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(KEYS, KEYS, st.sampled_from(["left", "inner"]), st.integers(1, 5))
def test_any_join_is_the_join_of_loops(left: list, right: list, kind: str, batch_rows: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def side(file: str, rows: list, column: str) -> Source:
            return table(
                folder,
                file,
                k=pa.array([k for k, _ in rows], pa.int64()),
                j=pa.array([j for _, j in rows], pa.string()),
                **{column: pa.array(range(len(rows)), pa.int64())},
            )

        spec = join(on=["k", "j"], kind=kind, many=True)
        rows, _ = read(combine([side("l", left, "x"), side("r", right, "y")], spec), batch_rows)
    expected = []
    for row, key in enumerate(left):
        found = [n for n, other in enumerate(right) if other == key and key[0] is not None]
        expected += [(row, row, n) for n in found] or ([(row, row, None)] if kind == "left" else [])
    assert [(id, row["x"], row["y"]) for id, row in rows] == expected
