"""From an endpoint's specification to the signals of one of its replicas."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from lightmill.errors import RequestError
from lightmill.masking import Masker
from lightmill.records.references import VersionId
from lightmill.records.signals import SignalsConfig
from lightmill.records.signature import Signature
from lightmill.records.specs import EndpointSpec
from lightmill.registry import RegistryLocation
from lightmill.serving.board import Board
from lightmill.serving.signals.log_file import LogFile
from lightmill.serving.signals.predictions import PredictionLog, check_policy, seal_part
from lightmill.serving.signals.signals import Signals
from lightmill.serving.signals.tracing import Tracer, otlp_exporter


def open_signals(
    spec: EndpointSpec,
    version: VersionId,
    signature: Callable[[], Signature],
    location: RegistryLocation,
    config: SignalsConfig,
    *,
    board: Board | None = None,
    replica: str = "",
    folder: Path | None = None,
) -> Signals:
    """Return the signals of a replica; the caller starts them.

    Args:
        spec: What the endpoint should be.
        version: What this replica serves.
        signature: Gives the columns that it is sent and answers with; asked only where predictions are logged.
        location: Where predictions are sealed.
        config: What the deployment decided: the masking policy, where traces go.
        board: Where measurements go.
        replica: A name of this replica that no other has; one is made if not given.
        folder: Where the access log lies; it goes to standard error if not given.

    Raises:
        RequestError: The endpoint's masking policy is missing, or names columns that it does not have.
    """
    number = str(version.seq)
    tracer = None
    if config.trace_url:
        tracer = Tracer(spec.name, number, otlp_exporter(config.trace_url), ratio=config.trace_ratio)
    replica = replica or secrets.token_hex(4)
    return Signals(
        spec.name,
        number,
        replica,
        log=spec.log,
        board=board,
        tracer=tracer,
        predictions=_predictions(spec, version, signature, location, config),
        write=LogFile(folder / f"access-{spec.name}-{replica}.jsonl") if folder else None,
    )


def _predictions(
    spec: EndpointSpec,
    version: VersionId,
    signature: Callable[[], Signature],
    location: RegistryLocation,
    config: SignalsConfig,
) -> PredictionLog | None:
    log = spec.log.predictions
    if not log.sample:
        return None
    if config.masking is None:
        raise RequestError(
            f"Endpoint {spec.name!r} logs predictions, and the masking policy {log.masking!r} is missing."
        )
    registry = location.open()
    masker = Masker(config.masking, registry.keyring.masking_key(location.workspace))
    check_policy(masker, signature())
    return PredictionLog(log, str(version), masker, seal_part(registry, spec.name, version))
