"""Text, images, NumPy arrays and tar files of samples."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmill.errors import NotFoundError, RequestError
from tests.unit.datasets.sources.reading import at, read, source, values

# -- text -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=9), min_size=1),
    st.integers(1, 60),
    st.sampled_from(["\n", "\r\n"]),
)
def test_lines_are_rows_empty_ones_too(lines: list[str], part_bytes: int, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        content = "".join(line + ending for line in lines)
        (Path(folder) / "d.txt").write_bytes(content.encode())
        rows, bad = read(source(Path(folder), format="text", path="d.txt", part_bytes=part_bytes))
    assert bad == []
    expected = lines if not lines[0].startswith("\ufeff") else [lines[0][1:], *lines[1:]]
    assert rows == [(n, {"text": line}) for n, line in enumerate(expected)]


def test_lines_of_another_encoding_are_reported(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_bytes("a\ngrün\n\nz".encode("latin-1"))
    rows, bad = read(source(tmp_path, format="text", path="d.txt"))
    assert rows == [(0, {"text": "a"}), (2, {"text": ""}), (3, {"text": "z"})]
    assert [(b.row, b.text) for b in bad] == [(1, "gr\ufffdn")]
    assert len(values(source(tmp_path, format="text", path="d.txt", encoding="latin-1"))) == 4


def test_documents_are_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "c.txt").write_text("x" * 100)
    rows, bad = read(source(tmp_path, format="text", path="*.txt", unit="document", limits={"cell_bytes": 50}))
    assert rows == [(0, {"text": "one\ntwo\n", "path": "a.txt"})]
    assert [(b.path, b.rest) for b in bad] == [("b.txt", True), ("c.txt", True)]


# -- images ---------------------------------------------------------------------------------------------------


def image_files(folder: Path) -> Path:
    for label in ("cat", "dog"):
        (folder / "images" / label).mkdir(parents=True)
        for number in range(3):
            (folder / "images" / label / f"{number}.png").write_bytes(f"{label}{number}".encode())
    (folder / "images" / "dog" / "notes.md").write_text("no image")
    (folder / "images" / "dog" / "1.png").write_bytes(b"")
    return folder


def test_images_of_folders_have_labels(tmp_path: Path) -> None:
    found = source(image_files(tmp_path), format="images", path="images", per_part=4)
    assert len(found.parts()) == 2
    rows, bad = read(found)
    assert rows[0] == (0, {"image": b"cat0", "path": "images/cat/0.png", "label": "cat"})
    assert [id for id, _ in rows] == [0, 1, 2, 3, at(1, 1)]
    assert [(b.file, b.row, b.path, b.reason) for b in bad] == [(1, 0, "images/dog/1.png", "the file is empty")]
    _, bad = read(source(tmp_path, format="images", path="images/cat", limits={"cell_bytes": 3}))
    assert len(bad) == 3
    assert len(found.describe()) == 6


def test_images_named_by_a_table(tmp_path: Path) -> None:
    names = ["cat/0.png", "", "../secret.csv", "/etc/hostname", "cat/none.png", "dog/1.png", "dog/2.png"]
    (tmp_path / "t.csv").write_text("file,y\n" + "".join(f"{name},{n}\n" for n, name in enumerate(names)))
    (tmp_path / "secret.csv").write_text("secret")
    table = {"format": "csv", "path": "t.csv"}
    found = source(image_files(tmp_path), format="images", path="images", table=table, column="file")
    rows, bad = read(found)
    assert [(id, row["y"], row["image"]) for id, row in rows] == [(0, "0", b"cat0"), (6, "6", b"dog2")]
    assert [b.row for b in bad] == [1, 2, 3, 4, 5]
    assert "outside" in bad[1].reason
    typed = source(
        tmp_path, {"y": pa.int64(), "image": pa.binary()}, format="images", path="images", table=table, column="file"
    )
    assert typed.schema().names == ["y", "file", "image"]
    with pytest.raises(RequestError, match="no column 'path'"):
        source(tmp_path, format="images", path="images", table=table).schema()


# -- NumPy ----------------------------------------------------------------------------------------------------


def test_arrays_are_columns_and_tensors(tmp_path: Path) -> None:
    pixels = np.arange(10 * 2 * 3, dtype=np.float32).reshape(10, 2, 3)
    np.savez_compressed(tmp_path / "d.npz", pixels=pixels, label=np.arange(10, dtype=">i4"))
    found = source(tmp_path, format="numpy", path="d.npz")
    assert found.schema().field("pixels").type == pa.fixed_shape_tensor(pa.float32(), (2, 3))
    chunks = list(found.read(found.parts()[0], batch_rows=4))
    assert [len(chunk.rows) for chunk in chunks] == [4, 4, 2]
    joined = pa.concat_tables([chunk.table for chunk in chunks]).combine_chunks()
    assert (joined.column("pixels").chunk(0).to_numpy_ndarray() == pixels).all()
    assert joined.column("label").to_pylist() == list(range(10))
    np.save(tmp_path / "d.npy", np.array([True, False]))
    assert values(source(tmp_path, format="numpy", path="d.npy")) == [{"values": True}, {"values": False}]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([{}], dtype=object), "dtype object"),
        (np.array(["a"]), "dtype <U1"),
        (np.asfortranarray(np.ones((3, 2))), "Fortran"),
        (np.array(5), "rows are axis 0"),
    ],
)
def test_arrays_that_are_no_rows_of_numbers_are_refused(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "d.npy", array)
    with pytest.raises(RequestError, match=said):
        source(tmp_path, format="numpy", path="d.npy").schema()


def test_damaged_and_unequal_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.arange(100))
    whole = (tmp_path / "d.npy").read_bytes()
    (tmp_path / "d.npy").write_bytes(whole[:-8])
    rows, bad = read(source(tmp_path, format="numpy", path="d.npy"), batch_rows=10)
    assert len(rows) == 90
    assert (bad[0].row, bad[0].rest) == (90, True)
    np.savez(tmp_path / "e.npz", a=np.arange(3), b=np.arange(4))
    with pytest.raises(RequestError, match=r"\[3, 4\] rows"):
        source(tmp_path, format="numpy", path="e.npz").schema()
    for content in (b"", b"PK\x03\x04", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x05\x00{'x'}"):
        (tmp_path / "f.npy").write_bytes(content)
        with pytest.raises(RequestError, match=r"f\.npy"):
            source(tmp_path, format="numpy", path="f.npy").schema()


def test_a_zip_bomb_of_arrays_is_stopped_before_it_is_read(tmp_path: Path) -> None:
    out = io.BytesIO()
    np.save(out, np.zeros(10_000_000))
    with zipfile.ZipFile(tmp_path / "d.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", out.getvalue())
    with pytest.raises(RequestError, match=r"limits\.expansion"):
        source(tmp_path, format="numpy", path="d.npz", limits={"expansion": 50}).schema()


# -- tar files of samples -------------------------------------------------------------------------------------


def tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # pyright: ignore
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path.parent


MEMBERS = [
    ("x/1.png", b"p1"),
    ("x/1.cls", b"3"),
    ("x/2.png", b"p2"),
    ("x/2.cls", b"4"),
    ("x/3.png", b"p3"),
    ("x/4.png", b"p4"),
    ("x/4.cls", b"\xff"),
    ("x/5.png", b"p5"),
    ("x/5.pkl", b"cos\nsystem\n."),
    ("x/6.seg.png", b"p6"),
]


@pytest.mark.parametrize(("name", "mode"), [("d.tar", "w"), ("d.tar.gz", "w:gz"), ("d.tgz", "w:gz")])
def test_samples_of_a_tar_file(tmp_path: Path, name: str, mode: str) -> None:
    rows, bad = read(source(tar(tmp_path / name, MEMBERS, mode), format="webdataset", path=name))
    assert rows == [
        (0, {"__key__": "x/1", "png": b"p1", "cls": "3"}),
        (1, {"__key__": "x/2", "png": b"p2", "cls": "4"}),
        (2, {"__key__": "x/3", "png": b"p3", "cls": None}),
    ]
    assert [(b.row, b.text) for b in bad] == [(3, "x/4"), (4, "x/5"), (5, "x/6")]
    assert "'pkl' that is no column" in bad[1].reason


def test_declared_members_and_doubled_ones(tmp_path: Path) -> None:
    tar(tmp_path / "d.tar", [*MEMBERS[:3], ("x/2.png", b"again"), ("y/6.seg.png", b"p6")])
    found = source(tmp_path, format="webdataset", path="d.tar", members=["png", "cls", "seg.png"])
    rows, bad = read(found)
    assert rows[1] == (2, {"__key__": "y/6", "png": None, "cls": None, "seg.png": b"p6"})
    assert [(b.row, b.reason) for b in bad] == [(1, "it has the member 'png' twice")]
    _, bad = read(source(tmp_path, format="webdataset", path="d.tar", limits={"cell_bytes": 1}))
    assert len(bad) == 3


def test_truncated_tar_files_and_bombs(tmp_path: Path) -> None:
    tar(tmp_path / "d.tar", [(f"{n}.txt", b"x" * 3000) for n in range(9)])
    whole = (tmp_path / "d.tar").read_bytes()
    for keep in (0, 100, 600, 20_000):
        (tmp_path / "d.tar").write_bytes(whole[:keep])
        rows, bad = read(source(tmp_path, format="webdataset", path="d.tar", members=["txt"]))
        assert bad[-1].rest
        assert len(rows) <= keep // 3000
    tar(tmp_path / "b.tar.gz", [(f"{n}.txt", b"0" * 10_000_000) for n in range(9)], "w:gz")
    _, bad = read(source(tmp_path, format="webdataset", path="b.tar.gz", members=["txt"], limits={"expansion": 9}))
    assert "limits.expansion" in bad[-1].reason


# -- files ----------------------------------------------------------------------------------------------------


def test_globs_folders_and_lists_name_files_in_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "x/c.txt", "x/y/d.txt", "_hidden.txt", "x/.git/e.txt", "f.csv", "[g].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name + "\n")

    def names(path: object) -> list[str]:
        return [part.path for part in source(tmp_path, format="text", path=path).parts()]

    assert names("?.txt") == ["a.txt", "b.txt"]
    assert names("[!a].txt") == ["b.txt"]
    assert names("x/**/*.txt") == ["x/.git/e.txt", "x/c.txt", "x/y/d.txt"]
    assert names("**/d.txt") == ["x/y/d.txt"]
    assert names(["b.txt", "x/*.txt"]) == ["b.txt", "x/c.txt"]
    assert names(f"file://{tmp_path}/a.txt") == ["a.txt"]
    assert [part.path for part in source(tmp_path, path=".").parts()] == ["f.csv"]
    with pytest.raises(RequestError, match=r"a\.txt is named twice"):
        names(["a.txt", "?.txt"])
    for absent in ("none.txt", "none/*.txt", "*.parquet"):
        with pytest.raises(NotFoundError, match="none|parquet"):
            names(absent)


@pytest.mark.parametrize("path", ["nonsense://x/y.csv", "s3:///x", "s3://bucket/x?endpoint=y"])
def test_places_that_cannot_be_opened_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(RequestError):
        source(tmp_path, path=path)
