"""Bad input of every kind as files, with what must come of each: an error that says what to do, or rows kept aside.

Good rows lie before and after the bad ones, and all of them must come through exactly.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Row = tuple[float, str, str]
Place = tuple[int, int]
NAMES = ("n", "t", "kind")
COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "n", "dtype": "float64"},
    {"name": "t", "dtype": "string", "role": "key"},
    {"name": "kind", "dtype": "string", "role": "label", "values": ["a", "b"]},
)
RULES = ("unreadable", "type", "missing", "out_of_range")
BIG = 10 << 20


@dataclass(frozen=True, kw_only=True)
class Aside:
    """A row kept aside: the rule that it breaks, words of the reason, and its column where one is to blame."""

    rule: str
    why: str
    column: str | None = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of bad input.

    Attributes:
        make: Writes files and returns the `source` section.
        kept: The good rows by file and place in it, from 0.
        aside: The bad rows by file and place in it; none where the source is refused under every rule.
        refused: Words of the error where rules say `fail`; none where there is nothing wrong.
        heavy: Takes seconds, even without Ray.
        by_source: Whether the reader of the source finds it; otherwise the declared schema does.
    """

    name: str
    make: Callable[[Path], dict[str, Any]]
    kept: dict[Place, Row]
    aside: dict[Place, Aside]
    refused: tuple[str, ...]
    heavy: bool = False
    by_source: bool = True


def good(first: int = 0, count: int = 40) -> list[Row]:
    return [(float(n), f"text {n}", "ab"[n % 2]) for n in range(first, first + count)]


GOOD = good()


def placed(rows: list[Row], file: int = 0, gaps: tuple[int, ...] = ()) -> dict[Place, Row]:
    """Return rows by their places in a file where bad rows take the places `gaps`."""
    places = [place for place in range(len(rows) + len(gaps)) if place not in gaps]
    return {(file, place): row for place, row in zip(places, rows, strict=True)}


def csv_line(row: Row) -> str:
    return f"{row[0]},{row[1]},{row[2]}"


def json_line(row: Row) -> str:
    return json.dumps(dict(zip(NAMES, row, strict=True)))


def mixed(lines: list[str], bad: dict[int, str]) -> list[str]:
    """Return lines with bad ones put in at their places."""
    out = list(lines)
    for place in sorted(bad):
        out.insert(place, bad[place])
    return out


def csv_file(
    folder: Path, rows: list[Row] | None = None, bad: dict[int, str] | None = None, name: str = "a.csv"
) -> str:
    lines = mixed([csv_line(row) for row in (GOOD if rows is None else rows)], bad or {})
    text = "\n".join(["n,t,kind", *lines]) + "\n"
    (folder / name).write_text(text)
    return text


def json_file(folder: Path, bad: dict[int, str], rows: list[Row] | None = None, name: str = "a.jsonl") -> None:
    lines = mixed([json_line(row) for row in (GOOD if rows is None else rows)], bad)
    (folder / name).write_text("\n".join(lines) + "\n")


def table(rows: list[Row], **instead: pa.Array) -> pa.Table:
    columns = {name: pa.array([row[place] for row in rows]) for place, name in enumerate(NAMES)}
    return pa.table(columns | instead)


def parquet_file(folder: Path, found: pa.Table, name: str = "a.parquet", **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(found, sink, **options)
    (folder / name).write_bytes(sink.getvalue())
    return sink.getvalue()


PARQUET = {"format": "parquet", "path": "*.parquet"}
JSONL = {"format": "jsonl", "path": "*.jsonl"}


# -- the files -------------------------------------------------------------------------------------------------


def ragged(folder: Path) -> dict[str, Any]:
    csv_file(folder, bad={3: "1.0,only two", 7: "1.0,t,a,more", 9: "5"})
    return {"path": "a.csv"}


def latin_1(folder: Path) -> dict[str, Any]:
    text = csv_file(folder, bad={3: "1.0,caf\xe9,a"})
    (folder / "a.csv").write_bytes(text.encode("latin-1"))
    return {"path": "a.csv"}


def utf_16_undeclared(folder: Path) -> dict[str, Any]:
    text = csv_file(folder)
    (folder / "a.csv").write_bytes(text.encode("utf-16-le"))
    return {"path": "a.csv"}


def utf_16_broken(folder: Path) -> dict[str, Any]:
    text = csv_file(folder)
    csv_file(folder, good(40), name="b.csv")
    (folder / "a.csv").write_bytes(text.encode("utf-16"))
    (folder / "b.csv").write_bytes((folder / "b.csv").read_text().encode("utf-16")[:-1] + b"\xd8")
    return {"path": "*.csv", "encoding": "utf-16"}


def parquet_without_its_end(folder: Path) -> dict[str, Any]:
    parquet_file(folder, table(GOOD))
    data = parquet_file(folder, table(good(40)), "b.parquet")
    (folder / "b.parquet").write_bytes(data[:-200])
    return PARQUET


def parquet_damaged(folder: Path) -> dict[str, Any]:
    parquet_file(folder, table(GOOD))
    data = bytearray(parquet_file(folder, table(good(40)), "b.parquet", compression="gzip"))
    start = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(0).column(0).data_page_offset
    for at in range(start, start + 60):
        data[at] ^= 0x5A
    (folder / "b.parquet").write_bytes(bytes(data))
    return PARQUET


def noisy(count: int = 6000) -> list[Row]:
    chance = np.random.default_rng(0)
    return [(float(n), chance.bytes(20).hex(), "ab"[n % 2]) for n in range(count)]


def gzip_truncated(folder: Path) -> dict[str, Any]:
    text = csv_file(folder, noisy())
    (folder / "a.csv").unlink()
    (folder / "a.csv.gz").write_bytes(gzip.compress(text.encode(), mtime=0)[:-40_000])
    return {"path": "a.csv.gz"}


def empty_csv(folder: Path) -> dict[str, Any]:
    csv_file(folder)
    (folder / "b.csv").write_text("")
    return {"path": "*.csv"}


def empty_jsonl(folder: Path) -> dict[str, Any]:
    json_file(folder, {})
    (folder / "b.jsonl").write_text("")
    return JSONL


def empty_parquet(folder: Path) -> dict[str, Any]:
    parquet_file(folder, table(GOOD))
    (folder / "b.parquet").write_bytes(b"")
    return PARQUET


def only_empty(folder: Path) -> dict[str, Any]:
    (folder / "a.csv").write_text("")
    return {"path": "a.csv"}


def only_a_header(folder: Path) -> dict[str, Any]:
    (folder / "a.csv").write_text("n,t,kind\n")
    return {"path": "a.csv"}


def nested_json(folder: Path) -> dict[str, Any]:
    deep = '{"n": 1.0, "t": ' + "[" * 200_000 + "]" * 200_000 + ', "kind": "a"}'
    hidden = '{"n": 1.0, "t": "x", "kind": "a", "u": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}"
    json_file(folder, {5: deep, 9: hidden, 12: '{"n": 1.0, "t": ' + "[" * 100})
    return JSONL


def gzip_bomb(folder: Path) -> dict[str, Any]:
    text = csv_file(folder)
    (folder / "a.csv").unlink()
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(text.encode())
        for _ in range(160):
            file.write(b"\n" * (1 << 20))
    (folder / "a.csv.gz").write_bytes(sink.getvalue())
    return {"path": "a.csv.gz"}


def other_type_in_parquet(folder: Path) -> dict[str, Any]:
    parquet_file(folder, table(GOOD))
    later = [str(row[0]) for row in good(40)]
    later[3] = "not a number"
    parquet_file(folder, table(good(40), n=pa.array(later)), "b.parquet")
    return PARQUET


def list_for_a_number_in_parquet(folder: Path) -> dict[str, Any]:
    parquet_file(folder, table(GOOD))
    parquet_file(folder, table(good(40), n=pa.array([[row[0]] for row in good(40)])), "b.parquet")
    return PARQUET


def other_type_in_csv(folder: Path) -> dict[str, Any]:
    csv_file(folder)
    csv_file(folder, [(7.0, "u", "b")], {0: "yes,t,a"}, "b.csv")
    return {"path": "*.csv"}


def other_type_in_jsonl(folder: Path) -> dict[str, Any]:
    json_file(folder, {})
    odd = {0: '{"n":"12","t":"x","kind":"a"}', 1: '{"n":{"v":1},"t":"x","kind":"a"}', 3: '{"n":5,"t":7,"kind":"b"}'}
    json_file(folder, odd, [(8.0, "fine", "a")], "b.jsonl")
    return JSONL


def column_twice_in_csv(folder: Path) -> dict[str, Any]:
    (folder / "a.csv").write_text("n,t,kind,n\n1,t,a,2\n")
    return {"path": "a.csv"}


def column_twice_in_parquet(folder: Path) -> dict[str, Any]:
    found = table(GOOD)
    parquet_file(folder, found.append_column("n", found.column("n")))
    return PARQUET


def key_twice_in_jsonl(folder: Path) -> dict[str, Any]:
    json_file(folder, {4: '{"n":1.0,"t":"x","kind":"a","n":2.0}'})
    return JSONL


def infinities_in_csv(folder: Path) -> dict[str, Any]:
    csv_file(folder, bad={3: "inf,t,a", 5: "-Infinity,t,b", 8: "1e400,t,a"})
    return {"path": "a.csv"}


def infinities_in_parquet(folder: Path) -> dict[str, Any]:
    numbers = [row[0] for row in GOOD]
    numbers[3] = float("-inf")
    parquet_file(folder, table(GOOD, n=pa.array(numbers)))
    return PARQUET


def large_cell(folder: Path) -> dict[str, Any]:
    csv_file(folder, [*GOOD, (1.0, "x" * BIG, "a")])
    return {"path": "a.csv"}


def too_large_cell_in_csv(folder: Path) -> dict[str, Any]:
    csv_file(folder, bad={3: f"1.0,{'x' * BIG},a"})
    return {"path": "a.csv", "limits": {"cell_bytes": 1 << 20}}


def too_large_cell_in_jsonl(folder: Path) -> dict[str, Any]:
    json_file(folder, {4: json_line((1.0, "y" * BIG, "a"))})
    return {**JSONL, "limits": {"cell_bytes": 1 << 20}}


def too_large_cell_in_parquet(folder: Path) -> dict[str, Any]:
    texts = [row[1] for row in GOOD]
    texts[3] = "z" * BIG
    parquet_file(folder, table(GOOD, t=pa.array(texts)))
    return {**PARQUET, "limits": {"cell_bytes": 1 << 20}}


def png_bomb(width: int = 40_000, height: int = 40_000) -> bytes:
    """Return a small PNG whose header says 1.6 gigapixels; what it holds decompresses to as many zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    line = b"\0" * (1 << 20)
    data = b"".join(squeeze.compress(line) for _ in range(200)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# -- what must come of them ------------------------------------------------------------------------------------

_DEEP = Aside(rule="unreadable", why="nested deeper than limits.depth of 64")
_LARGE = Aside(rule="unreadable", why="more bytes than limits.cell_bytes of 1048576", column="t")
_ORDINARY = placed(GOOD)
_GAP_AT_3 = placed(GOOD, gaps=(3,))


def _without(rows: list[Row], file: int, place: int) -> dict[Place, Row]:
    found = placed(rows, file)
    del found[file, place]
    return found


CASES = (
    Case(
        name="ragged CSV",
        make=ragged,
        kept=placed(GOOD, gaps=(3, 7, 9)),
        aside={
            (0, 3): Aside(rule="unreadable", why="it has 2 cells, the header has 3"),
            (0, 7): Aside(rule="unreadable", why="it has 4 cells, the header has 3"),
            (0, 9): Aside(rule="unreadable", why="it has 1 cells, the header has 3"),
        },
        refused=("3 rows", "first a.csv row 4", "2 cells", "rules.unreadable", "'drop' or 'quarantine'"),
    ),
    Case(
        name="Latin-1 in UTF-8",
        make=latin_1,
        kept=_GAP_AT_3,
        aside={(0, 3): Aside(rule="unreadable", why="no utf-8; declare the encoding", column="t")},
        refused=("column 't'", "a.csv row 4", "declare the encoding"),
    ),
    Case(
        name="UTF-16 that is not declared",
        make=utf_16_undeclared,
        kept={},
        aside={},
        refused=("a.csv", "encoding"),
    ),
    Case(
        name="UTF-16 that ends within a character",
        make=utf_16_broken,
        kept=_ORDINARY | placed(good(40, 39), file=1),
        aside={(1, 39): Aside(rule="unreadable", why="not text in utf-16")},
        refused=("b.csv row 40", "not text in utf-16", "correct encoding"),
    ),
    Case(
        name="Parquet without its end",
        make=parquet_without_its_end,
        kept=_ORDINARY,
        aside={(1, 0): Aside(rule="unreadable", why="what follows it could be read")},
        refused=("b.parquet row 1", "magic bytes not found"),
    ),
    Case(
        name="Parquet damaged inside",
        make=parquet_damaged,
        kept=_ORDINARY,
        aside={(1, 0): Aside(rule="unreadable", why="what follows it could be read")},
        refused=("b.parquet row 1", "cannot be read further"),
    ),
    Case(
        name="empty CSV",
        make=empty_csv,
        kept=_ORDINARY,
        aside={(1, 0): Aside(rule="unreadable", why="is empty")},
        refused=("b.csv row 1", "the file is empty"),
    ),
    Case(
        name="empty JSON lines",
        make=empty_jsonl,
        kept=_ORDINARY,
        aside={(1, 0): Aside(rule="unreadable", why="is empty")},
        refused=("b.jsonl row 1", "the file is empty"),
    ),
    Case(
        name="empty Parquet",
        make=empty_parquet,
        kept=_ORDINARY,
        aside={(1, 0): Aside(rule="unreadable", why="0 bytes")},
        refused=("b.parquet row 1", "0 bytes"),
    ),
    Case(
        name="nothing but an empty file",
        make=only_empty,
        kept={},
        aside={},
        refused=("a.csv", "empty"),
    ),
    Case(
        name="nothing but a header",
        make=only_a_header,
        kept={},
        aside={},
        refused=("a.csv", "no rows"),
        by_source=False,
    ),
    Case(
        name="JSON nested without end",
        make=nested_json,
        kept=placed(GOOD, gaps=(5, 9, 12)),
        aside={(0, 5): _DEEP, (0, 9): _DEEP, (0, 12): _DEEP},
        refused=("3 rows", "a.jsonl row 6", "limits.depth of 64"),
    ),
    Case(
        name="gzip bomb",
        make=gzip_bomb,
        kept=_ORDINARY,
        aside={
            (0, 40): Aside(
                rule="unreadable", why="more than 200 times its size; if that is right, raise limits.expansion"
            )
        },
        refused=("a.csv.gz row 41", "limits.expansion"),
        heavy=True,
    ),
    Case(
        name="another type in a later Parquet file",
        make=other_type_in_parquet,
        kept=_ORDINARY | _without(good(40), 1, 3),
        aside={(1, 3): Aside(rule="type", why="the value is no double", column="n")},
        refused=("column 'n'", "b.parquet row 4", "rules.type"),
    ),
    Case(
        name="lists for numbers in a later Parquet file",
        make=list_for_a_number_in_parquet,
        kept={},
        aside={},
        refused=("b.parquet", "column 'n'", "list<", "declare another dtype"),
    ),
    Case(
        name="another type in a later CSV file",
        make=other_type_in_csv,
        kept=_ORDINARY | {(1, 1): (7.0, "u", "b")},
        aside={(1, 0): Aside(rule="type", why="the value is no double", column="n")},
        refused=("column 'n'", "b.csv row 1", "rules.type"),
    ),
    Case(
        name="another type in a later file of JSON lines",
        make=other_type_in_jsonl,
        kept=_ORDINARY | {(1, 2): (8.0, "fine", "a")},
        aside={
            (1, 0): Aside(rule="type", why="/n) changed from number to string"),
            (1, 1): Aside(rule="type", why="/n) changed from number to object"),
            (1, 3): Aside(rule="type", why="/t) changed from string to number"),
        },
        refused=("3 rows", "b.jsonl row 1", "rules.type", "/n)"),
    ),
    Case(
        name="a column twice in CSV",
        make=column_twice_in_csv,
        kept={},
        aside={},
        refused=("a.csv", "column 'n' twice", "rename one"),
    ),
    Case(
        name="a column twice in Parquet",
        make=column_twice_in_parquet,
        kept={},
        aside={},
        refused=("a.parquet", "column 'n' twice", "rename one"),
    ),
    Case(
        name="a key twice in JSON",
        make=key_twice_in_jsonl,
        kept=placed(GOOD, gaps=(4,)),
        aside={(0, 4): Aside(rule="unreadable", why="/n) was specified twice")},
        refused=("a.jsonl row 5", "specified twice"),
    ),
    Case(
        name="infinities in CSV",
        make=infinities_in_csv,
        kept=placed(GOOD, gaps=(3, 5, 8)),
        aside={
            (0, 3): Aside(rule="out_of_range", why="infinite value", column="n"),
            (0, 5): Aside(rule="out_of_range", why="infinite value", column="n"),
            (0, 8): Aside(rule="type", why="the value is no double", column="n"),
        },
        refused=("2 rows", "infinite value in column 'n'", "a.csv row 4", "1 row has other faults", "'clip'"),
        by_source=False,
    ),
    Case(
        name="infinities in Parquet",
        make=infinities_in_parquet,
        kept=_without(GOOD, 0, 3),
        aside={(0, 3): Aside(rule="out_of_range", why="infinite value", column="n")},
        refused=("infinite value in column 'n'", "a.parquet row 4", "rules.out_of_range"),
        by_source=False,
    ),
    Case(
        name="a cell of 10 MB",
        make=large_cell,
        kept=placed([*GOOD, (1.0, "x" * BIG, "a")]),
        aside={},
        refused=(),
    ),
    Case(
        name="a cell of 10 MB above the limit, in CSV",
        make=too_large_cell_in_csv,
        kept=_GAP_AT_3,
        aside={(0, 3): _LARGE},
        refused=("column 't'", "a.csv row 4", "limits.cell_bytes"),
    ),
    Case(
        name="a cell of 10 MB above the limit, in JSON lines",
        make=too_large_cell_in_jsonl,
        kept=placed(GOOD, gaps=(4,)),
        aside={(0, 4): _LARGE},
        refused=("column 't'", "a.jsonl row 5", "limits.cell_bytes"),
    ),
    Case(
        name="a cell of 10 MB above the limit, in Parquet",
        make=too_large_cell_in_parquet,
        kept=_without(GOOD, 0, 3),
        aside={(0, 3): _LARGE},
        refused=("column 't'", "a.parquet row 4", "limits.cell_bytes"),
    ),
)
