from __future__ import annotations

import numpy as np
import pytest
import torch

from lightmill.errors import RequestError
from lightmill.models.answers import Logits, signature_of_tokens
from lightmill.models.architectures import seeded
from lightmill.models.decoder import Decoder
from lightmill.models.language_model import ANSWER_VALUES, LanguageModel
from lightmill.records.assets import ModelCard
from lightmill.records.fitted import TokenPreparation
from lightmill.records.signature import Architecture, Preprocessing

VOCABULARY, CONTEXT = 20, 16


def model(context: int = CONTEXT) -> LanguageModel:
    arguments = {"vocabulary": VOCABULARY, "context": context, "width": 8, "layers": 1, "heads": 2}
    architecture = Architecture(name="decoder", arguments=arguments)
    card = ModelCard(
        architecture=architecture,
        preprocessing=Preprocessing(),
        signature=signature_of_tokens("tokens", VOCABULARY),
        classes=(),
        metrics={},
        tokens=TokenPreparation(column="tokens", length=context, vocabulary=VOCABULARY),
    )
    module = seeded(0, architecture)
    assert isinstance(module, Decoder)
    return LanguageModel(card, module)


def test_logits_are_the_module_s_for_rows_of_any_length() -> None:
    served = model()
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (3, 7))
    served.check(tokens)
    found = served.predict(tokens).logits
    with torch.inference_mode():
        expected = served._module(torch.from_numpy(tokens)).numpy()
    np.testing.assert_array_equal(found, expected)
    assert (found.shape, found.dtype) == ((3, 7, VOCABULARY), np.float32)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (np.zeros((1, CONTEXT + 1), dtype=np.int64), "17 tokens; the model takes 1 to 16"),
        (np.zeros((1, 0), dtype=np.int64), "0 tokens"),
        (np.full((1, 3), VOCABULARY), "Token id 20 is unknown; ids are 0 to 19"),
        (np.full((1, 3), -1), "Token id -1 is unknown"),
        (np.zeros((ANSWER_VALUES // VOCABULARY, 2), dtype=np.int64), "Send fewer or shorter rows"),
    ],
)
def test_a_request_that_the_model_cannot_answer_is_refused(tokens: np.ndarray, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        model().check(tokens)


def test_rows_together_keep_the_memory_of_answers_bounded() -> None:
    assert model().rows_together == ANSWER_VALUES // (CONTEXT * VOCABULARY)
    assert model(context=1 << 18).rows_together == 1


def test_answers_are_cut_and_joined() -> None:
    logits = Logits(logits=np.arange(24, dtype=np.float32).reshape(4, 2, 3))
    again = Logits.joined([logits.rows(0, 1), logits.rows(1, 4)])
    np.testing.assert_array_equal(again.arrays()["logits"], logits.logits)
