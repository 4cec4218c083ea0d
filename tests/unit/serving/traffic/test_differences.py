"""Differences in the store: where and by how much, and values only behind a policy that also hides the other answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from lightmill.masking import Masker
from lightmill.records.masking import MaskingPolicy
from lightmill.records.references import AssetKind, Reference
from lightmill.records.traffic import DifferencesSpec
from lightmill.serving.tensors import InferRequest, InferResponse, Tensor
from lightmill.serving.traffic.comparison import WHOLE, Difference
from lightmill.serving.traffic.differences import (
    DifferenceLog,
    Differing,
    differences_run,
    read_differences,
    seal_differences,
)
from tests.unit.registry.world import World
from tests.unit.serving.traffic.plans import target, version

POLICY = MaskingPolicy.model_validate(
    {
        "name": "staff",
        "version": 1,
        "rules": [
            {"columns": ["score"], "action": "redact"},
            {"detectors": ["all"], "action": "redact"},
        ],
    }
)
MAIL = "ada@example.org"


def texts(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], dtype=object)


def differing(rows: tuple[int, ...] = (1,), id: str = "r-1") -> Differing:
    return Differing(
        at=1_900_000_000.0,
        request_id=id,
        target=target("shade", shadow=1.0),
        request=InferRequest(inputs=(Tensor(name="note", datatype="BYTES", array=texts("plain", f"to {MAIL}")),)),
        stable=_answer("4", "secret-1", "secret-2"),
        other=_answer("5", "secret-3", "secret-4"),
        differences=tuple(Difference(output="score", kind="value", row=row, absolute=0.5) for row in rows),
    )


def _answer(number: str, *values: str) -> InferResponse:
    return InferResponse(
        model="m", version=number, outputs=(Tensor(name="score", datatype="BYTES", array=texts(*values)),)
    )


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_part_is_sealed_and_read_back_newest_first(tmp_path: Path) -> None:
    world = World(tmp_path)
    log = DifferenceLog(DifferencesSpec(), "digits@4", seal_differences(world.registry, "digits", version(4)))
    log.offer(differing())
    log.offer(differing((0, 1), "r-2"))
    assert log.flush() == 0 and log.flush(everything=True) == 2 and log.dropped == 0
    id = world.registry.resolve(AssetKind.RUN, Reference(name=differences_run("digits")))
    found = read_differences(world.registry, id)
    assert [(one.request, one.row) for one in found] == [("r-2", 1), ("r-2", 0), ("r-1", 1)]
    first = found[-1]
    assert (first.candidate, first.stable_version, first.candidate_version) == ("shade", "digits@4", "digits@5")
    assert (first.output, first.kind, first.absolute, first.relative, first.values) == ("score", "value", 0.5, None, {})
    stored = b"".join(path.read_bytes() for path in world.root.rglob("*") if path.is_file())
    assert b"shade" not in stored and b"secret" not in stored


def test_without_a_policy_nothing_of_a_row_is_kept() -> None:
    parts: list[pa.Table] = []
    log = DifferenceLog(DifferencesSpec(), "digits@4", parts.append)
    log.offer(differing())
    log.flush(everything=True)
    assert all(name.startswith("lightmill_") for name in parts[0].column_names)


def test_with_a_policy_both_answers_are_masked_by_the_rules_of_their_own_names() -> None:
    parts: list[pa.Table] = []
    log = DifferenceLog(DifferencesSpec(masking="staff"), "digits@4", parts.append, Masker(POLICY, b"k" * 32))
    log.offer(differing((0, 1)))
    log.offer(differing((WHOLE,), "r-2"))
    assert log.flush(everything=True) == 2
    found = parts[0].to_pydict()
    assert found["note"] == ["plain", "to [email]", None]
    assert "candidate_score" in found and "score" in found
    assert "secret" not in str(found) and MAIL not in str(found)


def test_parts_are_due_by_rows_or_time_and_memory_is_bounded() -> None:
    parts: list[pa.Table] = []
    clock = Clock()
    spec = DifferencesSpec(part_rows=3, part_s=10, buffer_bytes=1 << 16, rows_per_request=2)
    log = DifferenceLog(spec, "digits@4", parts.append, clock=clock)
    log.offer(differing((0, 1, 1, 1)))
    assert log.flush() == 0
    log.offer(differing((0, 1)))
    assert log.flush() == 2 and len(parts[0]) == 4
    log.offer(differing())
    clock.seconds = 10.0
    assert log.flush() == 1
    for _ in range(1000):
        log.offer(differing())
    assert log.dropped > 500
