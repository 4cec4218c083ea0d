"""The many models of one replica, joined: registry, shelf, and the replicas of the endpoint by Serve's handle."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ray import serve
from ray.serve._private.common import RequestRoutingInfo
from ray.serve.context import _get_global_client
from torch import nn

from lightmill.models.answers import Rows
from lightmill.models.language_model import LanguageModel
from lightmill.models.text_model import OfTokens
from lightmill.records.batching import Priority
from lightmill.records.multiplexing import ModelsSpec
from lightmill.records.references import VersionId
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.application import application_name
from lightmill.serving.asgi import BodyReader
from lightmill.serving.batcher import Batcher, batcher_of
from lightmill.serving.loading import INLINE_S, device_of, length_buckets, load_model, model_card, served, warm_up
from lightmill.serving.multiplexing.app import Asking, Multiplexed
from lightmill.serving.multiplexing.naming import Names
from lightmill.serving.multiplexing.shelf import Shelf
from lightmill.serving.predictor import PredictorConfig
from lightmill.serving.service import InferenceService
from lightmill.serving.siblings import answer_of
from lightmill.serving.tensors import Array

WARM_UP_ROWS = 8


class ManyModels:
    """What one replica does for the models of its endpoint beside its own.

    Attributes:
        app: Answers requests by the model that they name.
    """

    def __init__(
        self,
        spec: EndpointSpec,
        models: ModelsSpec,
        location: RegistryLocation,
        own: InferenceService,
        *,
        allow_python: bool = False,
    ) -> None:
        self._spec = spec
        self._location = location
        self._allow_python = allow_python
        self._handle: Any = None
        self._computing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="models")
        self._bodies = BodyReader(limit=spec.limits.body_bytes)
        self._shelf: Shelf[VersionId, Batcher] = Shelf(
            self._loaded, self._size, models.memory_bytes, changed=tell_serve
        )
        self.app = Multiplexed(own, Names(models, location.open().resolve), self._service)

    async def compute(self, version: VersionId, features: Array, timeout_s: float | None, priority: Priority) -> Rows:
        """Answer rows with a model on this replica, loaded if it must be; see `Shelf.using` for errors."""
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        async with self._shelf.using(version) as batcher:
            return await batcher.predict(features, deadline=deadline, priority=priority)

    async def ask(self, version: VersionId, features: Array, timeout_s: float | None, priority: Priority) -> Rows:
        """Answer rows with a model on whichever replica has it; Serve routes by the ids that replicas tell."""
        if str(version) in self._shelf.ids:
            return await self.compute(version, features, timeout_s, priority)
        if self._handle is None:
            self._handle = await asyncio.to_thread(serve.get_app_handle, application_name(self._spec.name))
        chosen = self._handle.options(multiplexed_model_id=str(version))
        return await answer_of(
            chosen.compute.remote(version, features, timeout_s, priority), f"The replica that has {version}"
        )

    def _size(self, version: VersionId) -> int:
        manifest = self._location.open().open(version).manifest
        return sum(piece.length for entry in manifest.tensors for piece in entry.pieces)

    def _loaded(self, version: VersionId) -> Batcher:
        spec = self._spec
        model = load_model(self._location, version, device_of(spec), allow_python=self._allow_python)
        of_tokens = isinstance(model, LanguageModel | OfTokens)
        max_rows = min(spec.batching.max_rows, model.rows_together or spec.batching.max_rows)
        compute_s = warm_up(model, min(WARM_UP_ROWS, max_rows))
        return batcher_of(
            spec.batching,
            model.predict,
            max_rows=max_rows,
            inline=compute_s * max_rows / WARM_UP_ROWS < INLINE_S and not of_tokens,
            buckets=length_buckets(spec.batching, model) if of_tokens else None,
            executor=self._computing,
        )

    def _service(self, version: VersionId) -> InferenceService:
        card = model_card(self._location, version)
        model = served(card, nn.Identity())
        return InferenceService(
            self._spec.name,
            version,
            card,
            Asking(version, self.ask),
            None,
            check=model.check if isinstance(model, LanguageModel | OfTokens) else None,
            allow_python=self._allow_python,
            bodies=self._bodies,
        )


def many_models(config: PredictorConfig, own: InferenceService) -> ManyModels | None:
    """Return what a replica does for further models; None if its endpoint has none."""
    models = config.spec.models
    if models is None:
        return None
    return ManyModels(config.spec, models, config.location, own, allow_python=config.allow_python)


def tell_serve(ids: list[str]) -> None:
    """Tell Serve's routers which models this replica holds, as `serve.multiplexed` does.

    That wrapper counts models and unloads by number; ours weighs them, so that it tells for itself.
    """
    info = RequestRoutingInfo(replica_id=serve.get_replica_context().replica_id, multiplexed_model_ids=ids)
    client = _get_global_client()
    if client is not None:
        client.record_request_routing_info(info)
