"""From a model version in the registry to a service that is warm; what a replica does once, with torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lightmill.errors import IntegrityError
from lightmill.models.answers import LOGITS, VALUE
from lightmill.models.architectures import build_module
from lightmill.models.classifier import Classifier, Regressor
from lightmill.models.inputs import SERVED_BY
from lightmill.models.language_model import LanguageModel
from lightmill.models.text_model import OfTokens, TextClassifier, TextRegressor
from lightmill.records.assets import ModelCard
from lightmill.records.batching import BatchingSpec
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec
from lightmill.records.tuned import TuningSpec
from lightmill.registry import RegistryLocation
from lightmill.registry.tensors import load_into_module
from lightmill.serving.application import application_name
from lightmill.serving.asgi import BodyReader
from lightmill.serving.batcher import Observer, batcher_of
from lightmill.serving.board import RayBoard
from lightmill.serving.dividing import Divider
from lightmill.serving.front import App, Front
from lightmill.serving.gatekeeper import Gatekeeper
from lightmill.serving.headers import Cors
from lightmill.serving.padding import LengthBuckets, bucket_edges
from lightmill.serving.parallel.group import Divided, RankGroup
from lightmill.serving.predictor import PredictorConfig
from lightmill.serving.scaling.signals import LoadSignals
from lightmill.serving.service import InferenceService
from lightmill.serving.siblings import Siblings
from lightmill.serving.signals.log_file import ray_log_folder
from lightmill.serving.signals.opening import open_signals
from lightmill.serving.signals.signals import Signals
from lightmill.serving.statistics import Statistics
from lightmill.serving.traffic.candidates import ServeCandidates
from lightmill.serving.traffic.following import TrafficFollower
from lightmill.serving.traffic.traffic import Traffic
from lightmill.serving.tuning import set_threads, tuned

INLINE_S = 0.001
WARM_UP_ROUNDS = 5
Model = Classifier | Regressor | LanguageModel | TextClassifier | TextRegressor


def load_service(
    spec: EndpointSpec,
    version: VersionId,
    location: RegistryLocation,
    *,
    allow_python: bool = False,
    observers: Sequence[Observer] = (),
    ranks: RankGroup | None = None,
) -> InferenceService:
    """Return an endpoint's service, warm and open to everybody: a `Front` goes before it; see `load_model` for errors.

    `allow_python` lets `python` steps of the preparation call functions; `observers` hear of every batch; `ranks` have
    the model where it is divided.
    """
    set_threads(spec.resources.threads, spec.tuning)
    if ranks is None:
        model = load_model(location, version, device_of(spec), allow_python=allow_python, tuning=spec.tuning)
    else:
        model = served(model_card(location, version), Divided(ranks))
    of_tokens = isinstance(model, LanguageModel | OfTokens)
    max_rows = min(spec.batching.max_rows, model.rows_together or spec.batching.max_rows)
    compute_s = warm_up(model, max_rows)
    load, statistics = LoadSignals(), Statistics()
    batcher = batcher_of(
        spec.batching,
        model.predict,
        max_rows=max_rows,
        inline=compute_s < INLINE_S and not of_tokens and ranks is None,
        buckets=length_buckets(spec.batching, model) if of_tokens else None,
        observers=(load.observe, statistics.batch, *observers),
    )
    check = model.check if of_tokens else None
    service = InferenceService(
        spec.name,
        version,
        model.card,
        batcher,
        None,
        check=check,
        allow_python=allow_python,
        load=load,
        statistics=statistics,
        bodies=BodyReader(limit=spec.limits.body_bytes),
    )
    if spec.split is not None:
        service.divider = Divider(spec.split, Siblings(application_name(spec.name)).ask)
    return service


def signals_of(config: PredictorConfig) -> Signals:
    """Return a replica's signals, not started yet.

    Raises:
        RequestError: The endpoint's masking policy is missing, or names columns that it does not have.
    """
    return open_signals(
        config.spec,
        config.version,
        lambda: model_card(config.location, config.version).signature,
        config.location,
        config.signals,
        board=RayBoard(),
        folder=ray_log_folder(),
    )


def stand_before(
    service: InferenceService, gatekeeper: Gatekeeper, signals: Signals, spec: EndpointSpec, app: App | None = None
) -> Front:
    """Return a replica's service, or the `app` around it, behind its door, with its signals started."""
    service.predictions = signals.predictions
    signals.start()
    return Front(
        app or service,
        gatekeeper,
        signals,
        body_bytes=spec.limits.body_bytes,
        cors=Cors(spec.access.cors_origins),
        open_paths=(f"/v2/models/{spec.name}/docs",),
    )


def follow_traffic(config: PredictorConfig, service: InferenceService, signals: Signals) -> TrafficFollower:
    """Return what keeps a stable version's replica with its endpoint's candidates, started."""
    traffic = Traffic(str(config.version.seq), ServeCandidates())

    def live(has_candidates: bool) -> None:
        service.traffic = traffic if has_candidates else None

    follower = TrafficFollower(config.spec.name, config.version, config.location, traffic, live, RayBoard())
    signals.recorder.traffic = traffic.signals
    signals.more_dropped["differences"] = follower.dropped
    follower.start()
    return follower


def model_card(location: RegistryLocation, id: VersionId) -> ModelCard:
    """Return what a version says of itself; IntegrityError if it is no model."""
    card = location.open().open(id).manifest.model
    if card is None:
        raise IntegrityError(f"{id} is no model version.")
    return card


def length_buckets(spec: BatchingSpec, model: LanguageModel | OfTokens) -> LengthBuckets:
    """Return which lengths of rows are computed together, and how the shorter are filled up."""
    edges = bucket_edges(spec.length_buckets, model.longest)
    return LengthBuckets(edges=edges, value=model.pad_id, right=model.pad_right)


def load_model(
    location: RegistryLocation,
    id: VersionId,
    device: str = "cpu",
    *,
    allow_python: bool = False,
    tuning: TuningSpec = TuningSpec(),  # noqa: B008 - a frozen record
) -> Model:
    """Return a version ready to predict; its weights are decrypted straight into the module's tensors.

    Raises:
        IntegrityError: The version's bytes are not what was written, or it is no model.
        RequestError: Its architecture has an entrypoint, and `allow_python` is not set or its package is not installed.
    """
    version = location.open().open(id)
    card = version.manifest.model
    if card is None:
        raise IntegrityError(f"{id} is no model version.")
    module = build_module(card.architecture, allow_python=allow_python, allowed_by=SERVED_BY)
    load_into_module(version, module)
    return served(card, tuned(module, tuning), device)


def served(card: ModelCard, module: nn.Module, device: str = "cpu") -> Model:
    """Return what answers as the card's signature says."""
    outputs = {spec.name for spec in card.signature.outputs}
    if LOGITS in outputs:
        return LanguageModel(card, module, device)
    if VALUE in outputs:
        return TextRegressor(card, module, device) if card.tokens else Regressor(card, module, device)
    return TextClassifier(card, module, device) if card.tokens else Classifier(card, module, device)


def warm_up(model: Model, max_rows: int) -> float:
    """Predict on rows of the model's shape until it is warm; return the seconds of one full batch."""
    best = float("inf")
    for rows in (1, max_rows):
        zeros: Any = np.zeros((rows, *model.shape), dtype=model.dtype)
        for _ in range(WARM_UP_ROUNDS):
            started = time.perf_counter()
            model.predict(zeros)
            best = time.perf_counter() - started
    return best


def device_of(spec: EndpointSpec) -> str:
    """Return where an endpoint's models compute."""
    return "cuda" if spec.resources.gpus and torch.cuda.is_available() else "cpu"
