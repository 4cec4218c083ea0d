"""The version as a pyarrow filesystem: whole files, ranges, Parquet, safetensors, and in another process."""

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from pyarrow.fs import FileSelector, FileType, PyFileSystem

from lightmill.errors import IntegrityError, NotFoundError
from lightmill.records.references import VersionId
from lightmill.registry import Content, RegistryLocation
from lightmill.registry.filesystem import sealed_filesystem
from lightmill.registry.names import blob_name
from tests.attacks.scene import DATASET, publish_dataset, table
from tests.unit.registry.world import MODEL, World, card, open_latest, publish, seal, weights

ROWS = 200_000


def rows() -> pa.Table:
    numbers = random.Random(4)
    return pa.table(
        {"id": range(ROWS), "x": [numbers.random() for _ in range(ROWS)], "group": [n % 7 for n in range(ROWS)]}
    )


@pytest.fixture
def opened(world: World) -> tuple[World, VersionId, PyFileSystem]:
    sink = io.BytesIO()
    pq.write_table(rows(), sink, row_group_size=20_000, compression="none")
    files = {"rows/part-0.parquet": sink.getvalue(), "notes/deep/read.me": b"hello", "empty": b"", "a.txt": b"abc"}
    draft = world.registry.begin(MODEL, "m")
    content = seal(draft, weights(1))
    sealed = draft.seal_files(files)
    content = Content(
        files=(*content.files, *sealed.files),
        tensors=content.tensors,
        safetensors_header=content.safetensors_header,
        blobs=(*content.blobs, *sealed.blobs),
        model=card(),
    )
    id = world.registry.commit(draft, content).id
    return world, id, sealed_filesystem(location(world), id)


def location(world: World) -> RegistryLocation:
    return RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")


Opened = tuple[World, VersionId, PyFileSystem]


def test_files_and_folders_are_listed(opened: Opened) -> None:
    fs = opened[2]
    found = {info.path: info.type for info in fs.get_file_info(FileSelector("", recursive=True))}
    assert found == {
        "a.txt": FileType.File,
        "empty": FileType.File,
        "model.safetensors": FileType.File,
        "notes": FileType.Directory,
        "notes/deep": FileType.Directory,
        "notes/deep/read.me": FileType.File,
        "rows": FileType.Directory,
        "rows/part-0.parquet": FileType.File,
    }
    assert [i.base_name for i in fs.get_file_info(FileSelector(""))] == [
        "a.txt",
        "empty",
        "model.safetensors",
        "notes",
        "rows",
    ]
    assert [i.path for i in fs.get_file_info(FileSelector("notes"))] == ["notes/deep"]
    assert fs.get_file_info("nothing").type == FileType.NotFound
    assert fs.get_file_info(FileSelector("nothing", allow_not_found=True)) == []
    with pytest.raises(FileNotFoundError):
        fs.get_file_info(FileSelector("nothing"))
    with pytest.raises(FileNotFoundError):
        fs.open_input_file("nothing")


def test_whole_files_and_ranges_are_the_bytes(opened: Opened) -> None:
    world, id, fs = opened
    version = world.registry.open(id)
    dice = random.Random(9)
    for path in ("a.txt", "empty", "notes/deep/read.me", "model.safetensors", "rows/part-0.parquet"):
        whole = version.read_file(path)
        assert fs.open_input_stream(path).read() == whole == fs.open_input_stream("/" + path).read()
        file = fs.open_input_file(path)
        assert file.size() == len(whole)
        for _ in range(40):
            at = dice.randrange(len(whole) + 1)
            length = dice.choice([0, 1, 8, 100, 5000, 1 << 20, len(whole)])
            file.seek(at)
            assert file.read(length) == whole[at : at + length]


def test_safetensors_is_the_file_that_was_imported(opened: Opened) -> None:
    _, _, fs = opened
    tensors = safetensors.torch.load(fs.open_input_file("model.safetensors").read())
    assert all(torch.equal(tensors[name], value) for name, value in weights(1).items())


def test_parquet_and_dataset_read_it(opened: Opened) -> None:
    fs, plain = opened[2], rows()
    assert pq.read_table("rows/part-0.parquet", filesystem=fs).equals(plain)
    dataset = ds.dataset("rows", filesystem=fs, format="parquet")
    assert dataset.count_rows() == ROWS
    found = dataset.to_table(columns=["x"], filter=ds.field("id") == 123_456)
    assert found.column("x").to_pylist() == [plain.column("x")[123_456].as_py()]


def test_a_range_reads_only_its_segments(opened: Opened) -> None:
    world, id, _ = opened
    version = world.registry.open(id)
    read: list[int] = []
    inner = version._store.read_into

    def counting(name: str, offset: int, out: memoryview) -> None:
        read.append(out.nbytes)
        inner(name, offset, out)

    version._store.read_into = counting  # type: ignore[method-assign]
    out = bytearray(1000)
    version.read_range("rows/part-0.parquet", 1_500_000, memoryview(out))
    assert sum(read) <= 128 + (1 << 20) + 16


def test_a_pickled_copy_is_small_and_secret_free_and_works_elsewhere(opened: Opened) -> None:
    world, _, fs = opened
    data = pickle.dumps(fs)
    secrets = json.loads(world.ring.path.read_text())
    assert len(data) < 1000 and not [s for s in secrets["root_keys"].values() if s.encode() in data]
    assert pickle.loads(data) == fs
    code = (
        "import pickle, sys; import pyarrow.parquet as pq\n"
        "fs = pickle.load(sys.stdin.buffer)\n"
        "print(pq.read_table('rows/part-0.parquet', filesystem=fs).num_rows, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [str(ROWS).encode(), b"False"]


def test_nothing_can_be_written(opened: Opened) -> None:
    fs = opened[2]
    for attempt in (
        lambda: fs.open_output_stream("new"),
        lambda: fs.open_append_stream("a.txt"),
        lambda: fs.delete_file("a.txt"),
        lambda: fs.move("a.txt", "b.txt"),
        lambda: fs.copy_file("a.txt", "b.txt"),
        lambda: fs.create_dir("d"),
        lambda: fs.delete_dir("rows"),
        lambda: fs.delete_dir_contents("rows"),
    ):
        with pytest.raises(PermissionError, match="immutable"):
            attempt()


def test_damaged_bytes_are_refused(opened: Opened) -> None:
    world, id, fs = opened
    for blob in world.registry.open(id).manifest.blobs:
        path = world.path(blob_name(blob.id))
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    with pytest.raises(IntegrityError):
        pq.read_table("rows/part-0.parquet", filesystem=fs)
    with pytest.raises(IntegrityError):
        fs.open_input_file("model.safetensors").read()


def test_encrypted_parquet_of_a_dataset_is_no_file_here(world: World) -> None:
    id = publish_dataset(world.registry, "d", table())
    fs = sealed_filesystem(location(world), id)
    assert fs.get_file_info(FileSelector("", recursive=True)) == []
    with pytest.raises(FileNotFoundError):
        fs.open_input_file("train/00000-00000.parquet")
    assert id.kind == DATASET


def test_a_version_that_is_not_there_is_refused_at_once(world: World) -> None:
    id = publish(world.registry).id
    open_latest(world.registry)
    with pytest.raises((NotFoundError, IntegrityError)):
        sealed_filesystem(location(world), id.model_copy(update={"seq": 9}))
    assert Path(world.root).is_dir()
