from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from lightmill.models.answers import Answers, signature_of
from lightmill.models.classifier import Classifier
from lightmill.records.assets import ModelCard
from lightmill.records.signature import Architecture, Preprocessing, Standardize, TensorSpec


def classifier(shape: tuple[int, ...] = (2, 3), classes: int = 4, module: nn.Module | None = None) -> Classifier:
    width = int(np.prod(shape))
    card = ModelCard(
        architecture=Architecture(name="logistic"),
        preprocessing=Preprocessing(steps=(Standardize(mean=(1.0,) * width, scale=(2.0,) * width),)),
        signature=signature_of(TensorSpec(name="x", datatype="FP32", shape=shape), classes),
        classes=tuple(str(n) for n in range(classes)),
        metrics={},
    )
    return Classifier(card, module or nn.Linear(width, classes))


def test_the_signature_has_one_input_and_two_outputs() -> None:
    signature = signature_of(TensorSpec(name="pixels", datatype="FP32", shape=(8, 8)), 10)
    assert [(t.name, t.datatype, t.shape) for t in (*signature.inputs, *signature.outputs)] == [
        ("pixels", "FP32", (-1, 8, 8)),
        ("probabilities", "FP32", (-1, 10)),
        ("label", "INT64", (-1,)),
    ]


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_answers_have_the_shapes_and_types_of_the_signature(rows: int, shape: tuple[int, ...]) -> None:
    answers = classifier(shape).predict(np.random.default_rng(1).normal(size=(rows, *shape)).astype(np.float32))
    assert (answers.probabilities.shape, answers.probabilities.dtype) == ((rows, 4), np.float32)
    assert (answers.label.shape, answers.label.dtype) == ((rows,), np.int64)
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(answers.label, answers.probabilities.argmax(axis=1))


def test_features_are_prepared_before_the_module_sees_them() -> None:
    module = nn.Linear(6, 4)
    features = np.random.default_rng(1).normal(size=(3, 2, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = torch.softmax(module((torch.from_numpy(features.reshape(3, 6)) - 1) / 2), dim=-1).numpy()
    np.testing.assert_allclose(classifier(module=module).predict(features).probabilities, expected, rtol=1e-6)


def test_dropout_is_off_and_the_answer_of_a_row_does_not_depend_on_its_neighbours() -> None:
    module = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.9), nn.BatchNorm1d(32), nn.Linear(32, 4))
    under_test = classifier(module=module)
    features = np.random.default_rng(3).normal(size=(6, 2, 3)).astype(np.float32)
    whole = under_test.predict(features)
    for row in range(6):
        alone = under_test.predict(features[row : row + 1])
        np.testing.assert_allclose(alone.probabilities[0], whole.probabilities[row], rtol=1e-5)


def test_a_transposed_input_is_read_as_it_is_indexed() -> None:
    features = np.random.default_rng(3).normal(size=(3, 2, 5)).astype(np.float32).T
    under_test = classifier()
    np.testing.assert_array_equal(
        under_test.predict(features).probabilities, under_test.predict(np.ascontiguousarray(features)).probabilities
    )


def test_rows_of_answers_are_cut_out_together() -> None:
    answers = Answers(probabilities=np.eye(4, dtype=np.float32), label=np.arange(4))
    part = answers.rows(1, 3)
    assert part.label.tolist() == [1, 2]
    assert part.probabilities.tolist() == np.eye(4)[1:3].tolist()
