"""Formats by name, those of installed packages among them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from lightmill.datasets.sources import Source, formats, open_source
from lightmill.errors import RequestError
from lightmill.records.sources import BUILT_IN, PluginSpec
from tests.unit.datasets.sources.reading import SPEC, source, values

PLUGIN = """
import pyarrow as pa
from lightmill.datasets.sources import Part, Source
from lightmill.datasets.sources.port import consecutive

class Counting(Source):
    def __init__(self, spec, folder, columns):
        self.limits = spec.limits
        self.count = spec.options["count"]
    def parts(self):
        return [Part(file=0, number=0, path="counting")]
    def schema(self):
        return pa.schema([("n", pa.int64())])
    def describe(self):
        return ()
    def tables(self, part, batch_rows, on_bad):
        yield pa.table({"n": list(range(self.count))}), consecutive(0, self.count)

def nothing(spec, folder, columns):
    return None
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package, as a folder with its metadata on the path."""
    (tmp_path / "counting_rows.py").write_text(PLUGIN)
    info = tmp_path / "counting_rows-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-rows\nVersion: 1.0\n")
    points = "[lightmill.sources]\ncounting = counting_rows:Counting\nnothing = counting_rows:nothing\n"
    (info / "entry_points.txt").write_text(points)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("counting_rows", None)


def test_every_built_in_format_has_a_record_and_an_adapter() -> None:
    assert set(formats()) >= BUILT_IN


def test_a_package_adds_a_format(plugin: Path) -> None:
    found = source(plugin, format="counting", options={"count": 3})
    assert values(found, batch_rows=2) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert "counting" in formats()
    with pytest.raises(RequestError, match="gives NoneType, which is no Source"):
        open_source(SPEC.validate_python({"format": "nothing"}), plugin)


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no source format 'cvs'; known are arrow, csv"):
        open_source(PluginSpec(format="cvs", path="x"), tmp_path)


def test_sources_know_no_ray(tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "d.csv").write_text("a\n1\n")
    code = (
        "import sys; from pathlib import Path; from lightmill.datasets.sources import open_source; "
        "from lightmill.records.sources import CsvSpec; s = open_source(CsvSpec(path='d.csv'), Path(sys.argv[1])); "
        "assert [c.table.num_rows for p in s.parts() for c in s.read(p)] == [1]; "
        "assert 'ray' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert issubclass(type(source(tmp_path, {"a": pa.int64()}, path="d.csv")), Source)
