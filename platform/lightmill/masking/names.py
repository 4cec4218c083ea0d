"""Person names through Microsoft Presidio and a spaCy model: optional, loaded when a policy asks for them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from lightmill.errors import RequestError
from lightmill.masking.detector import Detector, Span

SPACY_MODEL = "en_core_web_lg"
LEAST_SCORE = 0.5
_PIECE_CHARS = 50_000
_OVERLAP_CHARS = 200


class NameDetector(Detector):
    """Finds person names in English text by Presidio with a spaCy model: an installed package or a folder.

    Finds are a model's guesses: names are missed and other words taken for names. Texts longer than 50,000
    characters are looked at in overlapping pieces.
    """

    name = "person_name"
    hint = r"\p{L}"
    context = None
    numeric = False

    def __init__(self, model: str = SPACY_MODEL) -> None:
        self._model = model

    @cached_property
    def _analyzer(self) -> Any:
        try:
            presidio = importlib.import_module("presidio_analyzer")
            provider = importlib.import_module("presidio_analyzer.nlp_engine")
            spacy = importlib.import_module("spacy.util")
        except ImportError as exc:
            raise RequestError(
                f"The detector 'person_name' needs Presidio ({exc}). Install it with: pip install "
                f'"lightmill[privacy]", and the spaCy model {self._model}, or take person_name out of the policy.'
            ) from exc
        if not (spacy.is_package(self._model) or Path(self._model).is_dir()):
            raise RequestError(
                f"The detector 'person_name' needs the spaCy model {self._model!r}, which is not installed and which "
                f"pip cannot fetch by name. With internet: python -m spacy download {self._model}. Without: bring its "
                "wheel from the releases of spaCy's models and pip install it on every node, or take person_name out "
                "of the policy."
            )
        models = [{"lang_code": "en", "model_name": self._model}]
        engine = provider.NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
        return presidio.AnalyzerEngine(nlp_engine=engine.create_engine(), supported_languages=["en"])

    def load(self) -> None:
        """Load the model now instead of at the first text.

        Raises:
            RequestError: Presidio or the model is not installed; the message says how to get it.
        """
        _ = self._analyzer

    def find(self, text: str, said: str) -> Iterator[Span]:
        """Yield what the model takes for names of persons."""
        for start in range(0, len(text), _PIECE_CHARS):
            piece = text[start : start + _PIECE_CHARS + _OVERLAP_CHARS]
            for found in self._analyzer.analyze(piece, language="en", entities=["PERSON"], score_threshold=LEAST_SCORE):
                yield Span(start + found.start, start + found.end, False)

    def normal(self, found: str) -> str:
        """Return the name in lower case with single spaces."""
        return " ".join(found.lower().split())
