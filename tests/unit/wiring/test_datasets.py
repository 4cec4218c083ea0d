"""A first specification from a sample, and the page of a profile, as the command line gets them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lightmill.errors import NotFoundError, RequestError
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.profile import ProfileRecord
from lightmill.records.specs import parse_spec
from lightmill.settings import Settings
from lightmill.wiring.bootstrap import bootstrap
from lightmill.wiring.operations import OperationContext
from lightmill.wiring.operations.datasets import InferOptions, ProfileOptions, infer, profile
from lightmill.wiring.platform import open_platform
from tests.attacks.scene import dataset_card

DIGITS = Path(__file__).parents[3] / "examples" / "digits" / "digits.csv"


def context(home: Path) -> OperationContext:
    return OperationContext(settings=Settings(home=home), report=lambda _: None)


def test_a_specification_of_the_digits_is_proposed_and_valid(tmp_path: Path) -> None:
    found = infer(context(tmp_path), InferOptions(path=str(DIGITS), name="digits", folder=str(DIGITS.parent)))
    spec = parse_spec(DatasetSpec, yaml.safe_load(found.text), "the proposal")
    assert spec.label_columns() == ("digit",) and len(spec.feature_columns()) == 64
    assert spec.local_paths() == ("digits.csv",)
    assert (found.rows, found.unreadable) == (1822, 0)


@pytest.mark.parametrize(
    ("folder", "written"),
    [
        ("{home}/data", "a.csv"),
        ("{home}", "data/a.csv"),
        ("{home}/specs/people", "../../data/a.csv"),
        ("/elsewhere/specs", "{home}/data/a.csv"),
        ("/", "{home}/data/a.csv"),
    ],
)
def test_the_path_in_a_proposal_is_relative_where_both_share_a_folder(
    tmp_path: Path, folder: str, written: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("x,y\n1,2\n3,4\n")
    place = folder.format(home=tmp_path)
    found = infer(context(tmp_path), InferOptions(path=str(tmp_path / "data" / "a.csv"), name="a", folder=place))
    assert yaml.safe_load(found.text)["source"]["path"] == written.format(home=tmp_path)
    assert (Path(place) / yaml.safe_load(found.text)["source"]["path"]).resolve() == tmp_path / "data" / "a.csv"
    assert ("# source.path is absolute" in found.text) == (folder == "/elsewhere/specs")


def test_texts_of_a_csv_file_become_numbers_and_dates_where_all_are(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("n\td\tmixed\n1\t2026-01-02\t1\n2\t2026-02-03\tx\n")
    spec = yaml.safe_load(infer(context(tmp_path), InferOptions(path=str(tmp_path / "a.tsv"), name="a")).text)
    kinds = {column["name"]: column["dtype"] for column in spec["columns"]}
    assert (kinds["n"], kinds["d"], kinds["mixed"]) == ("int64", "date", "string")
    assert spec["source"]["delimiter"] == "\t"


def test_what_cannot_be_told_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "odd.xyz").write_text("?")
    with pytest.raises(RequestError, match="--format"):
        infer(context(tmp_path), InferOptions(path=str(tmp_path / "odd.xyz"), name="a"))
    with pytest.raises(NotFoundError):
        infer(context(tmp_path), InferOptions(path=str(tmp_path / "none.csv"), name="a"))
    (tmp_path / "empty.csv").write_text("a,b\n")
    with pytest.raises(RequestError, match="no rows"):
        infer(context(tmp_path), InferOptions(path=str(tmp_path / "empty.csv"), name="a"))


def test_the_profile_of_a_version_is_written_as_a_page(tmp_path: Path) -> None:
    here = context(tmp_path / "home")
    bootstrap(here.settings)
    from lightmill.records.references import AssetKind
    from lightmill.registry import Content

    registry = open_platform(here.settings).registry
    for files in ({"profile.json": ProfileRecord(name="d", rows_in=3, rows=2).model_dump_json().encode()}, {"x": b"1"}):
        draft = registry.begin(AssetKind.DATASET, "d")
        sealed = draft.seal_files(files)
        registry.commit(draft, Content(files=sealed.files, blobs=sealed.blobs, dataset=dataset_card()))
    done = profile(here, ProfileOptions(reference="d@1", path=str(tmp_path / "p.html")))
    assert (done.rows, done.version) == (2, "d@1")
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")
    with pytest.raises(NotFoundError, match="no profile"):
        profile(here, ProfileOptions(reference="d@2", path=str(tmp_path / "q.html")))
