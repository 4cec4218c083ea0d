"""Specifications: what is right is read, what is wrong is one error with key, value and remedy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightmill.errors import NotFoundError, RequestError
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.quality import ColumnRule
from lightmill.records.specs import (
    SPEC_MAX_BYTES,
    EndpointSpec,
    Spec,
    TrainSpec,
    load_spec,
    parse_spec,
    read_spec_file,
)
from lightmill.records.splitting import DistributionSpec
from lightmill.records.training import ParameterServerSpec, RingSpec

EXAMPLES = Path(__file__).parents[3] / "examples"
DATASET: dict[str, Any] = {
    "name": "letters",
    "source": {"format": "csv", "path": "letters.csv"},
    "features": {"name": "x", "shape": [2, 2]},
    "columns": [
        {"name": "p{0..3}", "dtype": "float64", "minimum": 0},
        {"name": "letter", "dtype": "string", "role": "label", "values": ["a", "b"]},
        {"name": "note", "dtype": "string", "role": "ignore"},
    ],
}
TRAIN: dict[str, Any] = {"model": "m", "dataset": "d", "architecture": {"name": "mlp", "arguments": {"hidden": [4]}}}
ENDPOINT: dict[str, Any] = {"name": "e", "model": "m"}
KINDS: dict[type[Spec], dict[str, Any]] = {DatasetSpec: DATASET, TrainSpec: TRAIN, EndpointSpec: ENDPOINT}


def changed(base: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at `a.b.0.c` replaced; `...` removes it."""
    result = copy.deepcopy(base)
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place: Any = result
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_small_specification_is_read_and_goes_through_json(kind: type[Spec]) -> None:
    spec = parse_spec(kind, KINDS[kind], "here")
    assert kind.model_validate_json(spec.model_dump_json()) == spec
    assert parse_spec(kind, spec.model_dump(mode="json"), "here") == spec


def test_training_takes_an_objective_and_a_distribution() -> None:
    assert parse_spec(TrainSpec, TRAIN, "here").objective == "cross_entropy"
    assert parse_spec(TrainSpec, TRAIN, "here").distribution is None
    more = {"objective": "causal_lm", "distribution": {"by": "key", "column": "owner", "seed": 3}}
    spec = parse_spec(TrainSpec, TRAIN | more, "here")
    assert spec.distribution == DistributionSpec(by="key", column="owner", seed=3)
    assert parse_spec(TrainSpec, spec.model_dump(mode="json"), "here") == spec
    for wrong, named in (({"objective": "hinge"}, "causal_lm"), ({"distribution": {"by": "key"}}, "needs a column")):
        with pytest.raises(RequestError, match=named):
            parse_spec(TrainSpec, TRAIN | wrong, "here")


@pytest.mark.parametrize(
    ("value", "fewest", "most", "kept"), [(4, 4, 4, 4), ("4", 4, 4, 4), ("2..8", 2, 8, "2..8"), ("3..3", 3, 3, 3)]
)
def test_workers_are_a_number_or_a_range(value: int | str, fewest: int, most: int, kept: int | str) -> None:
    spec = parse_spec(TrainSpec, TRAIN | {"workers": value, "batch_size": 24}, "here")
    assert (spec.worker_range.min, spec.worker_range.max, spec.workers) == (fewest, most, kept)
    assert parse_spec(TrainSpec, spec.model_dump(mode="json"), "here") == spec


def test_a_bare_name_is_an_optimizer_a_schedule_or_a_strategy() -> None:
    spec = parse_spec(TrainSpec, TRAIN | {"optimizer": "sgd", "schedule": "cosine", "strategy": "ring"}, "here")
    assert (spec.optimizer.name, spec.schedule.name, spec.strategy) == ("sgd", "cosine", RingSpec())
    more = {"strategy": {"name": "parameter_server", "consistency": "ssp", "staleness": 3}}
    assert parse_spec(TrainSpec, TRAIN | more, "here").strategy == ParameterServerSpec(consistency="ssp", staleness=3)


def test_every_example_is_valid() -> None:
    kinds = {"dataset": DatasetSpec, "train": TrainSpec, "endpoint": EndpointSpec}
    files = [path for path in EXAMPLES.rglob("*.yaml") if path.stem in kinds]
    assert len(files) >= 3
    for path in files:
        assert isinstance(load_spec(kinds[path.stem], path), kinds[path.stem])


def test_defaults_are_the_documented_ones() -> None:
    train = parse_spec(TrainSpec, TRAIN, "here")
    assert (train.dataset, train.alias, train.workers, train.resources.gpus) == ("d@latest", "champion", 2, "auto")
    endpoint = parse_spec(EndpointSpec, ENDPOINT, "here")
    assert (endpoint.model, endpoint.replicas.max) == ("m@champion", 1)
    dataset = parse_spec(DatasetSpec, DATASET, "here")
    assert (dataset.rules.missing, dataset.split.train, dataset.keep_source_columns) == ("fail", 0.7, True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("p{0..3}", ("p0", "p1", "p2", "p3")),
        ("p{08..11}x", ("p08x", "p09x", "p10x", "p11x")),
        ("p{5..5}", ("p5",)),
        ("plain", ("plain",)),
        ("p{a..b}", ("p{a..b}",)),
    ],
)
def test_a_family_of_columns_is_spelled_out(name: str, expected: tuple[str, ...]) -> None:
    assert ColumnRule(name=name, dtype="int64").names() == expected


def test_features_keep_the_order_of_the_columns() -> None:
    spec = parse_spec(DatasetSpec, DATASET, "here")
    assert spec.feature_columns() == ("p0", "p1", "p2", "p3")
    assert spec.label_columns() == ("letter",)


BAD: list[tuple[type[Spec], str, Any, tuple[str, ...]]] = [
    # kind, where, what, and what the message must hold: key, value, remedy
    (DatasetSpec, "colour", 1, ("unknown key 'colour'", "known keys", "columns")),
    (DatasetSpec, "split.trian", 0.7, ("unknown key 'split.trian'",)),
    (DatasetSpec, "columns.0.typ", "x", ("unknown key 'columns.0.typ'",)),
    (DatasetSpec, "name", ..., ("key 'name' is missing",)),
    (DatasetSpec, "source", ..., ("give `source`", "`sources`")),
    (DatasetSpec, "source.path", ..., ("key 'source.path' is missing",)),
    (DatasetSpec, "columns.1.dtype", ..., ("key 'columns.1.dtype' is missing",)),
    (DatasetSpec, "name", "Bad Name", ("'Bad Name'", "a-z", "letter or digit")),
    (DatasetSpec, "name", 7, ("name", "string", "7")),
    (DatasetSpec, "source.path", 7, ("source.path", "string", "7")),
    (DatasetSpec, "columns", [], ("columns", "at least 1")),
    (DatasetSpec, "columns.0.dtype", "int", ("columns.0.dtype", "int64", "'int'")),
    (DatasetSpec, "columns.0.minimum", "low", ("columns.0", "numbers", "'low'")),
    (DatasetSpec, "columns.0.minimum", float("nan"), ("columns.0.minimum", "nan")),
    (DatasetSpec, "columns.1.role", "ignore", ("label", "split")),
    (DatasetSpec, "columns.1.role", "feature", ("feature must be a number", "string")),
    (DatasetSpec, "columns.2", {"name": "p1", "dtype": "int64"}, ("['p1']", "twice")),
    (DatasetSpec, "columns.2.name", "letter", ("['letter']", "twice")),
    (DatasetSpec, "columns.2.name", "row_id", ("['row_id']", "reserved", "rename")),
    (DatasetSpec, "columns.2.role", "label", ("at most one", "'letter'", "'note'")),
    (DatasetSpec, "features.shape", [3], ("[3]", "3 values", "4 columns")),
    (DatasetSpec, "rules.missing", "clip", ("rules.missing", "'drop'", "'clip'")),
    (DatasetSpec, "split.train", 0.9, ("add up to", "1.2", "= 1")),
    (DatasetSpec, "split.train", 0, ("split.train", "greater than 0")),
    (DatasetSpec, "split.test", 1.5, ("split.test", "less than 1", "1.5")),
    (DatasetSpec, "prepare", [{"step": "normalize"}], ("prepare.0", "'standardize'", "'normalize'")),
    (TrainSpec, "batch_size", 7, ("batch_size 7", "workers 2", "multiple of 2")),
    (TrainSpec, "batch_size", 0, ("batch_size", "greater than or equal to 1")),
    (TrainSpec, "workers", 0, ("workers", "greater than or equal to 1")),
    (TrainSpec, "workers", "2..", ("workers", "'2..'", "2..8")),
    (TrainSpec, "workers", "8..2", ("workers", "8..2", "smaller number first")),
    (TrainSpec, "workers", "2..100", ("batch_size 64", "100 workers", "at least 100")),
    (TrainSpec, "optimizer", "sgdd", ("optimizer", "'adamw'", "'sgdd'")),
    (TrainSpec, "schedule", {"warmup_steps": 1, "warmup_share": 0.1}, ("warmup_steps", "leave one out")),
    (TrainSpec, "strategy", "dpp", ("strategy", "'ddp'", "'dpp'")),
    (TrainSpec, "strategy", {"name": "ring", "every": 2}, ("unknown key", "every")),
    (TrainSpec, "checkpoints.keep_best", 0, ("checkpoints.keep_best", "greater than or equal to 1")),
    (TrainSpec, "failures.worker", -1, ("failures.worker", "greater than or equal to 0")),
    (TrainSpec, "epochs", "many", ("epochs", "integer", "'many'")),
    (TrainSpec, "epochs", 1.5, ("epochs", "integer", "1.5")),
    (TrainSpec, "learning_rate", 0, ("learning_rate", "greater than 0")),
    (TrainSpec, "dataset", "d@", ("'d@'", "number from 1", "latest")),
    (TrainSpec, "dataset", "d@0", ("'d@0'", "number from 1")),
    (TrainSpec, "dataset", "d@A!", ("'d@A!'", "alias")),
    (TrainSpec, "model", "a/b", ("'a/b'", "a-z")),
    (TrainSpec, "architecture", "mlp", ("architecture", "'mlp'")),
    (TrainSpec, "resources.gpus", "lots", ("resources.gpus", "'auto'", "'lots'")),
    (TrainSpec, "resources.cpus", 0, ("resources.cpus", "greater than 0")),
    (TrainSpec, "gpus", 1, ("unknown key 'gpus'", "resources")),
    (EndpointSpec, "replicas.min", 3, ("min 3", "max 1")),
    (EndpointSpec, "replicas.max", 0, ("replicas.max", "greater than or equal to 1")),
    (EndpointSpec, "batching.max_rows", 0, ("batching.max_rows", "greater than or equal to 1")),
    (EndpointSpec, "model", "m@1.5", ("'m@1.5'", "alias")),
    (EndpointSpec, "name", "", ("''", "a-z")),
    (EndpointSpec, "limits.requests_per_s", 0, ("limits.requests_per_s", "greater than 0")),
    (EndpointSpec, "limits.burst", 2, ("burst needs requests_per_s",)),
    (EndpointSpec, "limits.body_bytes", 10, ("limits.body_bytes", "1024")),
    (EndpointSpec, "access.cors_origins", ["shop.example"], ("'shop.example' is no origin", "https://")),
    (EndpointSpec, "access.public", True, ("unknown key 'access.public'",)),
    (EndpointSpec, "log.predictions", {"sample": 0.1}, ("logged through a masking policy", "masking")),
    (EndpointSpec, "log.access", 2, ("log.access", "less than or equal to 1")),
    (EndpointSpec, "versions", 1, ("unknown key 'versions'", "model")),
]


@pytest.mark.parametrize(("kind", "path", "value", "named"), BAD, ids=[f"{k.__name__}-{p}-{v}" for k, p, v, _ in BAD])
def test_a_wrong_key_or_value_is_one_error_with_key_value_and_remedy(
    kind: type[Spec], path: str, value: Any, named: tuple[str, ...]
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_spec(kind, changed(KINDS[kind], path, value), "here.yaml")
    assert [part for part in named if part not in caught.value.message] == [], caught.value.message
    assert "pydantic" not in caught.value.message


SENSELESS: list[tuple[type[Spec], str, Any]] = [
    (DatasetSpec, "features.shape", [-2, -2]),
    (DatasetSpec, "split.seed", -1),
    (DatasetSpec, "columns.2.name", "split"),
    (DatasetSpec, "columns.0.dtype", "string"),
    (DatasetSpec, "columns.0.maximum", -5),
    (DatasetSpec, "columns.2.name", "q{5..2}"),
    (DatasetSpec, "columns.1.values", ["a", "a"]),
    (TrainSpec, "resources.gpus", -1),
    (TrainSpec, "alias", "Bad Alias"),
    (TrainSpec, "alias", "latest"),
    (TrainSpec, "alias", ""),
]


@pytest.mark.parametrize(("kind", "path", "value"), SENSELESS, ids=[f"{p}={v}" for _, p, v in SENSELESS])
def test_what_could_only_fail_or_mislead_later_is_refused_at_once(kind: type[Spec], path: str, value: Any) -> None:
    with pytest.raises(RequestError):
        parse_spec(kind, changed(KINDS[kind], path, value), "here.yaml")


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_what_is_no_mapping_is_refused_with_what_it_is(value: Any) -> None:
    with pytest.raises(RequestError, match=f"here must hold keys and values, but holds {type(value).__name__}"):
        parse_spec(TrainSpec, value, "here")


def test_a_long_value_is_shortened_and_at_most_three_problems_are_told() -> None:
    spec = changed(TRAIN, "epochs", "x" * 5000)
    spec |= {f"extra{n}": n for n in range(9)}
    with pytest.raises(RequestError) as caught:
        parse_spec(TrainSpec, spec, "here")
    assert len(caught.value.message) < 1500
    assert caught.value.message.count("unknown key") <= 3


def test_a_file_is_read_and_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(TRAIN))
    assert load_spec(TrainSpec, path).model == "m"
    path.write_text(yaml.safe_dump(TRAIN | {"epochs": -1}))
    with pytest.raises(RequestError, match="train.yaml"):
        load_spec(TrainSpec, path)


def test_a_file_that_is_not_there_or_a_folder_is_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(NotFoundError, match=str(path)):
            read_spec_file(path)


@pytest.mark.parametrize(
    "content",
    [b"a: [1", b"\xff\xfe\x00", b"- 1\n- 2\n", b"", b"just text", b"a: !!python/object/apply:os.system ['true']"],
    ids=["broken", "not UTF-8", "a list", "empty", "text", "python object"],
)
def test_a_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="spec.yaml"):
        read_spec_file(path)


def test_a_file_that_is_too_large_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"a: " + b"x" * SPEC_MAX_BYTES)
    with pytest.raises(RequestError, match="1 MiB"):
        read_spec_file(path)
