"""Plans, versions and candidates for tests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from lightmill.errors import LightmillError, UnavailableError
from lightmill.records.references import AssetKind, VersionId
from lightmill.records.traffic import TrafficPlan, TrafficTarget
from lightmill.serving.service import InferenceService
from lightmill.serving.tensors import InferRequest
from lightmill.serving.traffic.candidates import Consulted


def version(seq: int, name: str = "digits") -> VersionId:
    return VersionId(kind=AssetKind.MODEL, name=name, seq=seq, digest=f"{seq:064d}")


def target(
    name: str, percent: float = 0.0, *, shadow: float = 0.0, canary: bool = False, seq: int = 5
) -> TrafficTarget:
    return TrafficTarget(
        name=name, application=f"app-{name}", version=version(seq), percent=percent, shadow=shadow, canary=canary
    )


def plan(*targets: TrafficTarget, generation: int = 1, **fields: Any) -> TrafficPlan:
    return TrafficPlan.model_validate({"endpoint": "digits", "generation": generation, "targets": targets, **fields})


@dataclass
class Local:
    """Candidates in this process: a service each, which answers after `delay_s` or raises `error` instead."""

    services: dict[str, InferenceService] = field(default_factory=dict)
    delay_s: float = 0.0
    seconds: float = 0.001
    error: LightmillError | None = None
    asked: list[str] = field(default_factory=list)

    async def consult(self, application: str, request: InferRequest, *, copy: bool) -> Consulted:
        self.asked.append(application)
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        if application not in self.services:
            raise UnavailableError(f"there is no {application}")
        return Consulted(response=await self.services[application].infer(request, copy=copy), seconds=self.seconds)
