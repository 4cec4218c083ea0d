"""Objectives: what a batch is, what counts, and what does not fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lightmill.errors import RequestError
from lightmill.models.architectures import seeded
from lightmill.models.preparation.packing import pack
from lightmill.models.preparation.tokens import fixed_list
from lightmill.records.assets import DatasetCard
from lightmill.records.fitted import TokenPreparation
from lightmill.records.preparation import Pack
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.training.loop import Epoch, epoch_metrics, evaluate
from lightmill.training.objectives import OBJECTIVES, CausalLanguage, CrossEntropy
from lightmill.training.objectives.causal_lm import NO_LOSS, next_tokens
from lightmill.training.rows import Rows
from lightmill.training.strategies import Ddp, Setting
from lightmill.training.tally import Tally
from lightmill.training.team import Team
from lightmill.training.weighing import weighed
from tests.attacks.scene import dataset_card

LENGTH, VOCABULARY = 8, 9
SMALL = {"width": 8, "layers": 1, "heads": 2}
DECODER = Architecture(name="decoder", arguments=dict(SMALL))


def texts(**changes: Any) -> DatasetCard:
    tokens = TokenPreparation(column="tokens", length=LENGTH, segments="tokens_segments", vocabulary=VOCABULARY)
    return dataset_card(classes=()).model_copy(update={"tokens": tokens.model_copy(update=changes)})


def packed(documents: list[list[int]]) -> pa.Table:
    table = pa.table({"row_id": range(len(documents)), "tokens": pa.array(documents, pa.list_(pa.int32()))})
    return pack(table, Pack(length=LENGTH))


def documents_of(seed: int, rows: int = 30) -> list[list[int]]:
    chance = np.random.default_rng(seed)
    return [chance.integers(0, VOCABULARY, chance.integers(1, 12)).tolist() for _ in range(rows)]


@given(st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=20), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None)
def test_every_token_but_the_first_of_a_piece_is_predicted_from_its_own_document(documents: list[list[int]]) -> None:
    table = packed(documents)
    tokens, segments = CausalLanguage(texts(), DECODER).tensors(table)
    assert tokens.dtype == segments.dtype == torch.int64
    targets = next_tokens(tokens, segments)
    for row in range(len(tokens)):
        for place in range(LENGTH - 1):
            both = segments[row, place : place + 2].tolist()
            expected = int(tokens[row, place + 1]) if both[0] == both[1] != 0 else NO_LOSS
            assert int(targets[row, place]) == expected
    pieces = sum(len(set(row.tolist()) - {0}) for row in segments)
    assert int((targets != NO_LOSS).sum()) == sum(map(len, documents)) - pieces


def test_the_loss_of_packed_documents_is_that_of_each_alone() -> None:
    objective = CausalLanguage(texts(), DECODER)
    module = seeded(1, objective.architecture)
    documents = [[1, 2, 3], [4, 5], [6, 7, 8, 1, 2, 3]]  # the last one begins in one row and ends in the next
    step = objective.step(module, objective.tensors(packed(documents)))
    total = torch.zeros(())
    for piece in ([1, 2, 3], [4, 5], [6, 7, 8], [1, 2, 3]):
        tokens = torch.tensor([piece])
        total = total + functional.cross_entropy(module(tokens)[0, :-1], tokens[0, 1:], reduction="sum")
    assert int(step.count) == 2 + 1 + 2 + 2
    torch.testing.assert_close(step.loss, total / 7)


def test_a_batch_of_padding_only_or_without_rows_has_no_loss_and_no_gradient() -> None:
    objective = CausalLanguage(texts(), DECODER)
    module = seeded(1, objective.architecture)
    for rows in (2, 0):
        empty = torch.zeros(rows, LENGTH, dtype=torch.int64)
        step = objective.step(module, (empty, empty))
        module.zero_grad()
        step.loss.backward()
        assert (float(step.loss.detach()), int(step.count)) == (0.0, 0)
        assert all(p.grad is not None and not p.grad.any() for p in module.parameters())


def test_two_workers_with_unlike_batches_step_as_one_with_both() -> None:
    """The weights of `loop.weight`, without a second process: own count x workers / all counted."""
    objective = CausalLanguage(texts(), DECODER)
    tokens, segments = objective.tensors(packed(documents_of(3)))
    halves = [(tokens[:2], segments[:2]), (tokens[2:], segments[2:])]
    whole, parts = seeded(1, objective.architecture), seeded(1, objective.architecture)
    objective.step(whole, (tokens, segments)).loss.backward()
    steps = [objective.step(parts, half) for half in halves]
    counted = sum(int(step.count) for step in steps)
    mean = sum((step.loss * (int(step.count) * 2 / counted) for step in steps), torch.zeros(())) / 2
    mean.backward()
    for one, two in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


def test_a_language_is_learnt_and_measured() -> None:
    objective = CausalLanguage(texts(), DECODER)
    rows = Rows(objective, texts())
    documents = [[n % 7, (n + 1) % 7, (n + 2) % 7, (n + 3) % 7] for n in range(60)]
    data = rows.batch(packed(documents))
    module = seeded(0, objective.architecture)
    team = Team.alone()
    spec = TrainSpec(
        model="m",
        dataset="d",
        architecture=objective.architecture,
        objective="causal_lm",
        epochs=21,
        learning_rate=0.02,
        workers=1,
    )
    strategy = Ddp(Setting(spec=spec, team=team, objective=objective, epoch_steps=12))
    strategy.prepare(module)

    def epoch() -> dict[str, float]:
        tally = Tally(objective)
        for batch in zip(*(tensor.split(5) for tensor in data), strict=True):
            tally.add(strategy.step(weighed(strategy, [batch], 5)))
        return epoch_metrics(objective, Epoch(totals=strategy.combined(tally.totals()), steps=12, seconds=2.0))

    first = epoch()
    for _ in range(20):
        last = epoch()
    assert last["loss"] < 0.3 < 1.5 < first["loss"]
    assert last.keys() == {"loss", "train_perplexity", "steps_per_second", "tokens_per_second"}
    assert last["steps_per_second"] == 6.0
    assert last["train_perplexity"] == pytest.approx(math.exp(last["loss"]))
    found, whole = (
        evaluate(module, zip(*(tensor.split(3) for tensor in data), strict=True), objective),
        objective.step(module, data),
    )
    assert found["loss"] == pytest.approx(float(whole.loss.detach()), rel=1e-5)
    assert objective.metrics(torch.tensor([1e9, 1.0]))["perplexity"] > 1e300


def test_the_dataset_decides_sizes_and_larger_ones_are_free() -> None:
    found = CausalLanguage(texts(), DECODER).architecture.arguments
    assert found == {"vocabulary": VOCABULARY, "context": LENGTH, **SMALL}
    larger = Architecture(name="decoder", arguments={**SMALL, "vocabulary": 64, "context": 32})
    assert CausalLanguage(texts(), larger).architecture.arguments == larger.arguments
    signature = CausalLanguage(texts(), larger).signature()
    assert [(t.name, t.datatype, t.shape) for t in signature.inputs] == [("tokens", "INT64", (-1, -1))]
    assert [(t.name, t.datatype, t.shape) for t in signature.outputs] == [("logits", "FP32", (-1, -1, 64))]


MLP = Architecture(name="mlp", arguments={"hidden": [4]})


@pytest.mark.parametrize(
    ("kind", "card", "architecture", "says"),
    [
        (CausalLanguage, dataset_card(), DECODER, "needs token ids"),
        (CausalLanguage, texts(segments=None), DECODER, "`mask: true`"),
        (CausalLanguage, texts(), MLP, "one of decoder, transformers; 'mlp' does something else"),
        (CausalLanguage, texts(vocabulary=None), DECODER, "give architecture.arguments.vocabulary"),
        (CausalLanguage, texts(), DECODER.with_sizes(vocabulary=8), "vocabulary is 8, but the dataset needs 9"),
        (CausalLanguage, texts(), DECODER.with_sizes(context=4), "context is 4, but the dataset needs 8"),
        (CrossEntropy, texts(), MLP, "objective: causal_lm"),
        (CrossEntropy, dataset_card(), DECODER, "takes token ids"),
        (CrossEntropy, dataset_card(), MLP.with_sizes(classes=3), "classes is 3, but the dataset has 2"),
    ],
)
def test_what_does_not_fit_is_refused(kind: Any, card: DatasetCard, architecture: Architecture, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        kind(card, architecture)
    assert says in caught.value.message


def test_a_token_beyond_the_vocabulary_is_refused_before_it_is_looked_up() -> None:
    objective = CausalLanguage(texts(vocabulary=None), DECODER.with_sizes(vocabulary=5))
    ids = fixed_list(np.full((2, LENGTH), 5, dtype=np.int32))
    with pytest.raises(RequestError, match=r"token ids from 5 to 5, but the model knows 0 to 4"):
        objective.tensors(pa.table({"tokens": ids, "tokens_segments": ids}))


def test_every_objective_is_known_by_its_name() -> None:
    assert {name: kind.name for name, kind in OBJECTIVES.items()} == {
        name: name for name in ("causal_lm", "cross_entropy", "bce", "mse", "mae", "huber", "custom")
    }
