"""The replica: loads one model version straight from the registry and serves it."""

from __future__ import annotations

import time

import numpy as np
import torch

from lightmill.access import KeyChecker
from lightmill.errors import IntegrityError
from lightmill.models.architectures import build_module
from lightmill.models.classifier import Classifier
from lightmill.records.base import Record
from lightmill.records.endpoints import ApiKey
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.registry.tensors import load_into_module
from lightmill.serving.batcher import Batcher
from lightmill.serving.service import InferenceService
from lightmill.serving.transport import keep_transport_private

INLINE_S = 0.001
WARM_UP_ROUNDS = 5


class PredictorConfig(Record):
    """What a replica is started with; it is visible in Ray's state API and holds no secret."""

    spec: EndpointSpec
    version: VersionId
    location: RegistryLocation
    loopback: bool


class KeysConfig(Record):
    """What changes without a restart: who may call. Hashes of random keys are no secret."""

    keys: tuple[ApiKey, ...]


class Predictor:
    """The Serve deployment class; Ray calls `__serve_build_asgi_app__` after the constructor."""

    def __init__(self, config: str) -> None:
        parsed = PredictorConfig.model_validate_json(config)
        keep_transport_private(parsed.loopback)
        torch.set_num_threads(parsed.spec.resources.threads)
        classifier = load_classifier(parsed.location, parsed.version, _device(parsed.spec))
        compute_s = warm_up(classifier, parsed.spec.batching.max_rows)
        batcher = Batcher(
            classifier.predict,
            max_rows=parsed.spec.batching.max_rows,
            max_wait_s=parsed.spec.batching.max_wait_ms / 1000,
            inline=compute_s < INLINE_S,
        )
        self._service = InferenceService(parsed.spec.name, parsed.version, classifier.card, batcher, KeyChecker(()))

    def reconfigure(self, keys: dict[str, object]) -> None:
        """Take a new set of API keys; Serve calls it without restarting the replica."""
        self._service.keys = KeyChecker(KeysConfig.model_validate(keys).keys)

    def __serve_build_asgi_app__(self) -> InferenceService:
        """Return the application that answers this replica's HTTP requests."""
        return self._service


def load_classifier(location: RegistryLocation, id: VersionId, device: str = "cpu") -> Classifier:
    """Return a version ready to predict; its weights are decrypted straight into the module's tensors.

    Raises:
        IntegrityError: The version's bytes are not what was written, or it is no model.
    """
    version = location.open().open(id)
    card = version.manifest.model
    if card is None:
        raise IntegrityError(f"{id} is no model version.")
    module = build_module(card.architecture)
    load_into_module(version, module)
    return Classifier(card, module, device)


def warm_up(classifier: Classifier, max_rows: int) -> float:
    """Predict on the signature's shapes until it is warm; return the seconds of one full batch."""
    shape = classifier.card.signature.inputs[0].shape[1:]
    best = float("inf")
    for rows in (1, max_rows):
        features = np.zeros((rows, *shape), dtype=np.float32)
        for _ in range(WARM_UP_ROUNDS):
            started = time.perf_counter()
            classifier.predict(features)
            best = time.perf_counter() - started
    return best


def _device(spec: EndpointSpec) -> str:
    return "cuda" if spec.resources.gpus and torch.cuda.is_available() else "cpu"
