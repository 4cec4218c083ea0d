"""From a model version in the registry to a service that is warm; what a replica does once, with torch."""

from __future__ import annotations

import time

import numpy as np
import torch

from lightmill.access import KeyChecker
from lightmill.errors import IntegrityError
from lightmill.models.architectures import build_module
from lightmill.models.classifier import Classifier
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.registry.tensors import load_into_module
from lightmill.serving.batcher import Batcher
from lightmill.serving.service import InferenceService

INLINE_S = 0.001
WARM_UP_ROUNDS = 5


def load_service(spec: EndpointSpec, version: VersionId, location: RegistryLocation) -> InferenceService:
    """Return the service of an endpoint, warm and with no API keys yet; see `load_classifier` for the errors."""
    torch.set_num_threads(spec.resources.threads)
    classifier = load_classifier(location, version, _device(spec))
    compute_s = warm_up(classifier, spec.batching.max_rows)
    batcher = Batcher(
        classifier.predict,
        max_rows=spec.batching.max_rows,
        max_wait_s=spec.batching.max_wait_ms / 1000,
        inline=compute_s < INLINE_S,
    )
    return InferenceService(spec.name, version, classifier.card, batcher, KeyChecker(()))


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
    """Predict on rows of the model's shape until it is warm; return the seconds of one full batch."""
    best = float("inf")
    for rows in (1, max_rows):
        features = np.zeros((rows, *classifier.shape), dtype=np.float32)
        for _ in range(WARM_UP_ROUNDS):
            started = time.perf_counter()
            classifier.predict(features)
            best = time.perf_counter() - started
    return best


def _device(spec: EndpointSpec) -> str:
    return "cuda" if spec.resources.gpus and torch.cuda.is_available() else "cpu"
