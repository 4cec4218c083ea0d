"""The prediction log: sampled, masked, sealed, bounded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from lightmill.errors import RequestError, UnavailableError
from lightmill.masking import Masker
from lightmill.records.logs import PredictionLogSpec
from lightmill.records.masking import MaskingPolicy
from lightmill.records.references import AssetKind, Reference, VersionId
from lightmill.records.signals import SignalsConfig
from lightmill.records.signature import Signature, TensorSpec
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.signals.opening import open_signals
from lightmill.serving.signals.predictions import (
    Predicted,
    PredictionLog,
    check_policy,
    read_part,
    run_name,
    seal_part,
)
from tests.unit.registry.world import World

POLICY = MaskingPolicy.model_validate(
    {
        "name": "staff",
        "version": 1,
        "rules": [
            {"columns": ["person"], "action": "pseudonym", "domain": "person"},
            {"detectors": ["all"], "action": "redact"},
        ],
    }
)
MASKER = Masker(POLICY, b"k" * 32)
VERSION = VersionId(kind=AssetKind.MODEL, name="digits", seq=4, digest="ab" * 32)
MAIL = "ada@example.org"
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="person", datatype="BYTES", shape=(1,)),
        TensorSpec(name="note", datatype="BYTES", shape=(1,)),
        TensorSpec(name="x", datatype="FP32", shape=(3,)),
    ),
    outputs=(TensorSpec(name="label", datatype="INT64", shape=(-1,)),),
)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Parts:
    def __init__(self) -> None:
        self.tables: list[pa.Table] = []
        self.away = False

    def __call__(self, table: pa.Table) -> None:
        if self.away:
            raise UnavailableError("the store is away")
        self.tables.append(table)


def predicted(rows: int = 2, size: int = 100, id: str = "r-1") -> Predicted:
    return Predicted(
        at=1_900_000_000.0,
        request_id=id,
        rows=rows,
        inputs={
            "person": ["Ada Lovelace"] * rows,
            "note": [f"write to {MAIL}".encode()] * rows,
            "x": np.arange(3 * rows, dtype=np.float32).reshape(rows, 3),
        },
        outputs={"label": np.arange(rows)},
        size_bytes=size,
    )


def log(parts: Parts, clock: Clock | None = None, **fields: Any) -> PredictionLog:
    spec = PredictionLogSpec.model_validate({"sample": 1.0, "masking": "staff@1", **fields})
    return PredictionLog(spec, "digits@4", MASKER, parts, clock=clock or Clock(), chance=lambda: 0.5)


def test_rows_and_answers_are_masked_and_say_where_they_come_from() -> None:
    parts = Parts()
    written = log(parts)
    written.offer(predicted())
    written.offer(predicted(rows=1, id="r-2"))
    assert written.flush() == 0  # neither enough rows nor enough time
    assert written.flush(everything=True) == 3
    (table,) = parts.tables
    found = table.to_pydict()
    assert found["lightmill_request"] == ["r-1", "r-1", "r-2"] and found["lightmill_row"] == [0, 1, 0]
    assert found["lightmill_version"] == ["digits@4"] * 3
    assert found["lightmill_time"][0].startswith("2030-03-17")
    assert found["label"] == [0, 1, 0] and found["x"][1] == [3.0, 4.0, 5.0]
    assert found["note"] == ["write to [email]"] * 3
    assert len(set(found["person"])) == 1 and "Lovelace" not in found["person"][0]
    assert MAIL not in str(found)


def test_texts_are_masked_as_they_come_from_a_request_in_arrays_of_objects() -> None:
    parts = Parts()
    written = log(parts)
    found = predicted(rows=2)
    texts = np.array([[f"to {MAIL}".encode(), b"a"], [b"b", f"from {MAIL}".encode()]], dtype=object)
    written.offer(replace(found, inputs={**found.inputs, "note": texts[:, 0], "notes": texts}))
    assert written.flush(everything=True) == 2
    assert parts.tables[0].column("note").to_pylist() == ["to [email]", "b"] and MAIL not in str(parts.tables[0])


def test_a_part_is_due_by_rows_or_by_time() -> None:
    parts, clock = Parts(), Clock()
    written = log(parts, clock, part_rows=4, part_s=60)
    for _ in range(5):
        written.offer(predicted())
    assert [written.flush(), written.flush(), written.flush()] == [4, 4, 0]
    clock.seconds = 59.0
    assert written.flush() == 0
    clock.seconds = 60.0
    assert written.flush() == 2
    assert [len(table) for table in parts.tables] == [4, 4, 2]


def test_memory_is_bounded_and_what_does_not_fit_is_counted() -> None:
    parts = Parts()
    written = log(parts, buffer_bytes=1 << 16)
    for _ in range(10):
        written.offer(predicted(size=1 << 14))
    assert written.dropped == 6 * 2
    assert written.flush(everything=True) == 8
    written.offer(predicted(size=1 << 14))
    assert written.flush(everything=True) == 2


def test_a_store_that_is_away_costs_rows_and_no_request() -> None:
    parts = Parts()
    written = log(parts)
    parts.away = True
    written.offer(predicted())
    assert written.flush(everything=True) == 0 and written.dropped == 2
    parts.away = False
    written.offer(predicted())
    assert written.flush(everything=True) == 2


def test_the_sample_is_a_share() -> None:
    assert [log(Parts(), sample=share).wants() for share in (0.51, 0.5)] == [True, False]


def test_a_part_is_sealed_and_read_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    written = PredictionLog(
        PredictionLogSpec(sample=1.0, masking="staff@1"),
        str(VERSION),
        MASKER,
        seal_part(world.registry, "digits", VERSION),
    )
    for _ in range(2):
        written.offer(predicted())
        assert written.flush(everything=True) == 2
    for seq in ("1", "2"):
        id = world.registry.resolve(AssetKind.RUN, Reference(name=run_name("digits"), selector=seq))
        assert read_part(world.registry, id).column("label").to_pylist() == [0, 1]
    stored = b"".join(path.read_bytes() for path in world.root.rglob("*") if path.is_file())
    # Long enough that no ciphertext holds it by chance.
    for plain in (b"Lovelace", MAIL.encode(), b"digits", b"lightmill_request"):
        assert plain not in stored


def test_a_policy_that_does_not_fit_the_endpoint_is_refused_before_it_serves() -> None:
    check_policy(MASKER, SIGNATURE)
    other = Signature(inputs=SIGNATURE.inputs[1:], outputs=SIGNATURE.outputs)
    with pytest.raises(RequestError, match=r"rules.0.columns names \['person'\]"):
        check_policy(MASKER, other)


def test_an_input_and_an_output_of_one_name_stay_apart() -> None:
    parts = Parts()
    written = PredictionLog(
        PredictionLogSpec(sample=1.0, masking="p"),
        "m@1",
        Masker(MaskingPolicy.model_validate({"name": "p", "rules": [{"detectors": ["all"], "action": "redact"}]})),
        parts,
    )
    value = np.ones((1, 2))
    written.offer(
        Predicted(at=0.0, request_id="r", rows=1, inputs={"x": value}, outputs={"x": value * 2}, size_bytes=1)
    )
    written.flush(everything=True)
    assert parts.tables[0].select(["x", "output_x"]).to_pydict() == {"x": [[1.0, 1.0]], "output_x": [[2.0, 2.0]]}


def test_there_is_no_log_without_a_policy() -> None:
    with pytest.raises(ValidationError, match="logged through a masking policy"):
        PredictionLogSpec(sample=0.1)


def test_a_long_name_of_an_endpoint_gives_a_name_that_fits() -> None:
    names = {run_name("a" * 64), run_name("a" * 63 + "b"), run_name("digits")}
    assert len(names) == 3 and max(map(len, names)) <= 64


def test_signals_of_a_specification_seal_what_they_are_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    location = RegistryLocation(store_url=str(world.root), keyring_path=str(world.ring.path), workspace="default")
    spec = EndpointSpec.model_validate(
        {"name": "digits", "model": "m", "log": {"access": 0, "predictions": {"sample": 1, "masking": "staff@1"}}}
    )
    with pytest.raises(RequestError, match=r"'staff@1' is missing"):
        open_signals(spec, VERSION, lambda: SIGNATURE, location, SignalsConfig())
    signals = open_signals(spec, VERSION, lambda: SIGNATURE, location, SignalsConfig(masking=POLICY))
    assert signals.predictions is not None and signals.predictions.wants()
    signals.start()
    signals.predictions.offer(predicted())
    signals.close()
    id = world.registry.resolve(AssetKind.RUN, Reference(name=run_name("digits")))
    assert read_part(world.registry, id).num_rows == 2
    plain = open_signals(EndpointSpec(name="digits", model="m"), VERSION, lambda: SIGNATURE, location, SignalsConfig())
    assert plain.predictions is None
