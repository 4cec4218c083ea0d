"""Models of texts and of numbers as they are served."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightmill.errors import RequestError
from lightmill.models.answers import Values, classifying, regressing, signature_of, token_inputs
from lightmill.models.architectures import seeded
from lightmill.models.classifier import Classifier, Regressor
from lightmill.models.text_model import OfTokens, TextClassifier, TextRegressor
from lightmill.records.assets import ModelCard
from lightmill.records.fitted import FittedPreparation, FittedTokenize, TokenPreparation
from lightmill.records.preparation import Tokenize
from lightmill.records.signature import Architecture, Preprocessing, TensorSpec
from lightmill.serving.loading import served

ENCODER = Architecture(
    name="encoder", arguments={"vocabulary": 9, "context": 6, "classes": 3, "width": 8, "layers": 1, "heads": 2}
)


def text_model(side: str = "right", outputs: int = 3) -> OfTokens:
    declared = Tokenize.model_validate({"column": "text", "file": "t.json", "length": 6, "mask": True, "pad": side})
    step = FittedTokenize(declared=declared, sha256="0" * 64, pad_id=0)
    architecture = ENCODER.with_arguments(classes=outputs)
    inputs = token_inputs("tokens")
    card = ModelCard(
        architecture=architecture,
        preprocessing=Preprocessing(),
        signature=classifying(inputs, 3) if outputs > 1 else regressing(inputs),
        classes=("a", "b", "c") if outputs > 1 else (),
        metrics={},
        tokens=TokenPreparation(
            column="tokens", length=6, segments="tokens_mask", fitted=FittedPreparation(steps=(step,))
        ),
    )
    found = served(card, seeded(0, architecture))
    assert isinstance(found, OfTokens)
    return found


@pytest.mark.parametrize(("side", "padded"), [("right", [3, 0, 4, 0, 0]), ("left", [0, 0, 3, 0, 4])])
def test_padding_of_a_request_changes_nothing(side: str, padded: list[int]) -> None:
    model = text_model(side)
    assert isinstance(model, TextClassifier)
    alone, with_padding = model.predict(np.array([[3, 0, 4]])), model.predict(np.array([padded]))
    np.testing.assert_allclose(with_padding.probabilities, alone.probabilities, rtol=1e-4, atol=1e-6)
    assert alone.probabilities.shape == (1, 3) and alone.label.dtype == np.int64
    np.testing.assert_allclose(alone.probabilities.sum(), 1.0, rtol=1e-5)
    assert np.isfinite(model.predict(np.zeros((2, 4), dtype=np.int64)).probabilities).all()


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (np.zeros((1, 7), dtype=np.int64), "7 tokens; the model takes 1 to 6"),
        (np.full((1, 2), 9), "Token id 9 is unknown; ids are 0 to 8"),
    ],
)
def test_a_request_that_the_model_cannot_answer_is_refused(tokens: np.ndarray, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        text_model().check(tokens)


def test_a_number_is_predicted_of_a_text_and_of_features() -> None:
    text = text_model(outputs=1)
    assert isinstance(text, TextRegressor)
    values = text.predict(np.array([[1, 2], [3, 4]]))
    assert (values.value.shape, values.value.dtype) == ((2,), np.float32)
    whole = Values.joined([values.rows(0, 1), values.rows(1, 2)])
    np.testing.assert_array_equal(whole.arrays()["value"], values.value)
    architecture = Architecture(name="logistic", arguments={"inputs": 2, "classes": 1})
    single = TensorSpec(name="x", datatype="FP32", shape=(-1, 2))
    card = ModelCard(
        architecture=architecture,
        preprocessing=Preprocessing(),
        signature=regressing((single,)),
        classes=(),
        metrics={},
    )
    module = seeded(1, architecture)
    model = served(card, module)
    assert isinstance(model, Regressor)
    rows = np.array([[1.0, 2.0], [0.5, -1.0]], dtype=np.float32)
    expected = module(torch.from_numpy(rows))[:, 0].detach().numpy()
    np.testing.assert_allclose(model.predict(rows).value, expected, rtol=1e-6)


def test_one_logit_gives_the_probabilities_of_two_classes() -> None:
    architecture = Architecture(name="logistic", arguments={"inputs": 1, "classes": 1})
    card = ModelCard(
        architecture=architecture,
        preprocessing=Preprocessing(),
        signature=signature_of(TensorSpec(name="x", datatype="FP32", shape=(1,)), 2),
        classes=("no", "yes"),
        metrics={},
    )
    module = seeded(1, architecture)
    model = served(card, module)
    assert isinstance(model, Classifier)
    rows = np.array([[-5.0], [5.0]], dtype=np.float32)
    found = model.predict(rows)
    second = torch.sigmoid(module(torch.from_numpy(rows)))[:, 0].detach().numpy()
    np.testing.assert_allclose(found.probabilities[:, 1], second, rtol=1e-5)
    assert found.label.tolist() == (second > 0.5).astype(int).tolist()
