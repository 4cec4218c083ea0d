"""Rows of unequal lengths: padded together they get the answers that they get alone."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lightmill.records.batching import BatchingSpec
from lightmill.serving.batcher import Batcher
from lightmill.serving.loading import length_buckets
from lightmill.serving.padding import LengthBuckets, bucket_edges
from tests.unit.models.test_language_model import model as language_model
from tests.unit.models.test_text_model import text_model


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 9)).flatmap(
            lambda shape: arrays.arrays(np.int64, shape, elements=st.integers(1, 99))
        ),
        min_size=1,
        max_size=5,
    ),
    st.booleans(),
)
def test_padding_keeps_every_token_and_says_how_many(parts: list[Any], right: bool) -> None:
    rows, lengths = LengthBuckets(edges=(16,), value=0, right=right).pad(parts)
    at = 0
    for part in parts:
        for row in part:
            kept = rows[at][: lengths[at]] if right else rows[at][rows.shape[1] - lengths[at] :]
            assert kept.tolist() == row.tolist() and (rows[at] != 0).sum() == len(row)
            at += 1
    assert (at, rows.shape[1]) == (len(rows), max(part.shape[1] for part in parts))


@pytest.mark.parametrize(
    ("chosen", "longest", "edges"),
    [
        ("powers_of_two", 100, (8, 16, 32, 64, 100)),
        ("powers_of_two", 8, (8,)),
        ("powers_of_two", 4, (8,)),
        ("none", 100, ()),
        ((10, 50), 100, (10, 50)),
    ],
)
def test_edges(chosen: Any, longest: int, edges: tuple[int, ...]) -> None:
    assert bucket_edges(chosen, longest) == edges


def test_a_row_belongs_to_the_first_edge_that_holds_it_and_a_longer_one_to_its_own_length() -> None:
    buckets = LengthBuckets(edges=(8, 16), value=0)
    assert [buckets.bucket(length) for length in (1, 8, 9, 16, 17, 40)] == [8, 8, 16, 16, 17, 40]


def ask(model: Any, requests: list[Any], buckets: LengthBuckets | None) -> tuple[list[Any], list[int]]:
    sizes: list[int] = []

    def compute(*given: Any) -> Any:
        sizes.append(len(given[0]))
        return model.predict(*given)

    async def run() -> list[Any]:
        batcher = Batcher(compute, max_rows=64, max_wait_s=0, inline=True, buckets=buckets)
        return await asyncio.gather(*map(batcher.predict, requests))

    return asyncio.run(run()), sizes


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6)), min_size=2, max_size=5), st.integers(0, 2**31))
def test_padded_together_texts_get_the_answers_that_they_get_alone(shapes: list[tuple[int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    for model in (language_model(), text_model(), text_model("left"), text_model(outputs=1)):
        model._module.eval()
        requests = [random.integers(3, 9, shape) for shape in shapes]
        with torch.inference_mode():
            alone = [model.predict(request).arrays() for request in requests]
        found, sizes = ask(model, requests, length_buckets(BatchingSpec(), model))
        assert sizes == [sum(rows for rows, _ in shapes)]
        for one, expected in zip(found, alone, strict=True):
            for name, values in expected.items():
                assert one.arrays()[name].shape == values.shape
                np.testing.assert_allclose(one.arrays()[name], values, rtol=1e-4, atol=1e-5)


def test_without_buckets_only_equal_lengths_go_together() -> None:
    model = language_model()
    requests = [np.full((1, length), 3) for length in (2, 3, 2)]
    assert ask(model, requests, length_buckets(BatchingSpec(length_buckets="none"), model))[1] == [2, 1]
