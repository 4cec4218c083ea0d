"""A classifier as ONNX: preparation, module and decision in one graph, compared with the original before it counts."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lightmill.errors import LightmillError, RequestError
from lightmill.models.answers import LABEL, PROBABILITIES
from lightmill.models.architectures import ARCHITECTURES, OF_TOKENS, build_module
from lightmill.models.classifier import Classifier, probabilities
from lightmill.models.exchange.extras import need
from lightmill.records.assets import ModelCard
from lightmill.registry import OpenVersion
from lightmill.registry.tensors import load_into_module

ONNX_FILE = "model.onnx"
TOLERANCE = 1e-4
COMPARED_ROWS = (1, 3, 17)
OPSET = 20
_WHAT = "Export as ONNX"


class _Whole(nn.Module):
    """What an endpoint computes: features in source units [batch, *shape] to (probabilities, label)."""

    def __init__(self, card: ModelCard, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.steps = len(card.preprocessing.steps)
        for number, step in enumerate(card.preprocessing.steps):
            self.register_buffer(f"mean_{number}", torch.tensor(step.mean, dtype=torch.float32))
            self.register_buffer(f"scale_{number}", torch.tensor(step.scale, dtype=torch.float32))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Prepare, compute, decide."""
        values = features.flatten(1)
        for number in range(self.steps):
            values = (values - getattr(self, f"mean_{number}")) / getattr(self, f"scale_{number}")
        found = probabilities(self.module(values).float())
        return found, found.argmax(dim=-1)


def write_onnx(version: OpenVersion, folder: Path) -> float:
    """Write `model.onnx` of a version into a folder; return the largest difference that was seen.

    The graph takes what the endpoint takes and gives what it gives; preparation is folded in. The batch may
    have any size. onnxruntime runs it on random rows and must agree with torch within 1e-4.

    Raises:
        RequestError: The version's architecture is not one of Lightmill's own, or the extra "onnx" is missing.
        IntegrityError: Stored bytes are not what was written.
        LightmillError: onnxruntime computes something else.
    """
    card = version.manifest.model
    exported = set(ARCHITECTURES) - OF_TOKENS
    if card is None or card.architecture.name not in exported or card.signature.outputs[0].name != PROBABILITIES:
        known = ", ".join(sorted(exported))
        raise RequestError(
            f"{version.id} cannot be exported as ONNX: that works for classifiers of the architectures {known}. "
            "Use --format huggingface or safetensors."
        )
    for module in ("onnx", "onnxscript"):
        need(module, "onnx", _WHAT)
    runtime = need("onnxruntime", "onnx", _WHAT)
    module = build_module(card.architecture)
    load_into_module(version, module)
    path = folder / ONNX_FILE
    _export(card, module, path)
    return _compare(runtime, card, module, path)


def _export(card: ModelCard, module: nn.Module, path: Path) -> None:
    if card.preparation:
        raise RequestError(
            "A model of named columns has a preparation that ONNX cannot hold; export it as safetensors instead."
        )
    name = card.signature.inputs[0].name
    example = torch.zeros(2, *card.signature.inputs[0].shape[1:])
    for logger in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            _Whole(card, module).eval(),
            (example,),
            dynamo=True,
            input_names=[name],
            output_names=[PROBABILITIES, LABEL],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            verbose=False,
        )
        program.save(str(path), external_data=False)


def _compare(runtime: Any, card: ModelCard, module: nn.Module, path: Path) -> float:
    """Return the largest difference of probabilities between onnxruntime and torch."""
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    classifier = Classifier(card, module)
    spec = card.signature.inputs[0]
    generator = np.random.default_rng(0)
    worst = 0.0
    for rows in COMPARED_ROWS:
        features = generator.normal(size=(rows, *spec.shape[1:])).astype(np.float32)
        ours = classifier.predict(features)
        given, label = session.run([PROBABILITIES, LABEL], {spec.name: features})
        worst = max(worst, float(np.abs(given - ours.probabilities).max()))
        sure = _margin(ours.probabilities) > 2 * TOLERANCE
        if worst > TOLERANCE or not np.array_equal(label[sure], ours.label[sure]):
            raise LightmillError(
                f"onnxruntime and torch differ by {worst:.2g} on {rows} rows, over the limit of {TOLERANCE:.0e}; "
                "nothing was exported."
            )
    return worst


def _margin(probabilities: np.ndarray) -> np.ndarray:
    """Return by how much the likeliest class leads in each row."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    top = np.sort(probabilities, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]
