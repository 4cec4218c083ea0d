"""Architectures by name. A record's name and arguments build the module; nothing is ever unpickled."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from lightmill.errors import RequestError
from lightmill.models.decoder import decoder
from lightmill.models.encoder import encoder
from lightmill.models.functions import ALLOWED_BY, load_function
from lightmill.models.huggingface import transformers
from lightmill.models.resnet import resnet
from lightmill.models.tabular import tabular
from lightmill.records.signature import Architecture

Builder = Callable[..., nn.Module]


def mlp(*, inputs: int, classes: int, hidden: list[int], dropout: float = 0.0) -> nn.Module:
    """Return a multilayer perceptron with ReLU: float32 [batch, inputs] to logits [batch, classes]."""
    layers: list[nn.Module] = []
    width = inputs
    for units in hidden:
        layers += [nn.Linear(width, units), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = units
    return nn.Sequential(*layers, nn.Linear(width, classes))


def convnet(
    *, inputs: int, classes: int, image: list[int], channels: list[int], hidden: int = 64, dropout: float = 0.0
) -> nn.Module:
    """Return a small convolutional network: float32 [batch, inputs] to logits [batch, classes].

    `image` is [channels, height, width], whose product is `inputs`; every entry of `channels` is a 3x3
    convolution with ReLU, and one 2x2 maximum pooling follows them.
    """
    if math.prod(image) != inputs or len(image) != 3:
        raise ValueError(f"image {image} does not hold the {inputs} inputs")
    layers: list[nn.Module] = [nn.Unflatten(1, tuple(image))]
    width = image[0]
    for count in channels:
        layers += [nn.Conv2d(width, count, kernel_size=3, padding=1), nn.ReLU()]
        width = count
    flat = width * (image[1] // 2) * (image[2] // 2)
    layers += [nn.MaxPool2d(2), nn.Dropout(dropout), nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(hidden, classes))


def logistic(*, inputs: int, classes: int) -> nn.Module:
    """Return a multinomial logistic regression: float32 [batch, inputs] to logits [batch, classes]."""
    return nn.Linear(inputs, classes)


ARCHITECTURES: dict[str, Builder] = {
    "convnet": convnet,
    "decoder": decoder,
    "encoder": encoder,
    "logistic": logistic,
    "mlp": mlp,
    "resnet": resnet,
    "tabular": tabular,
    "transformers": transformers,
}
OF_TOKENS = frozenset({"decoder", "encoder", "transformers"})
"""Those that take token ids; the others take features."""
LANGUAGE = frozenset({"decoder", "transformers"})
"""Those that predict the next token."""
CLASSIFYING = frozenset(ARCHITECTURES) - {"decoder"}
"""Those that give one score for each class."""


def build_module(architecture: Architecture, *, allow_python: bool = False, allowed_by: str = ALLOWED_BY) -> nn.Module:
    """Return a freshly initialized module; `torch.manual_seed` decides its weights.

    `allow_python` lets an architecture with an entrypoint call it; `allowed_by` is the setting that errors name.

    Raises:
        RequestError: There is no architecture of this name, it does not take these arguments, or its entrypoint may not
            be called.
    """
    builder = _builder(architecture, allow_python, allowed_by)
    try:
        module = builder(**architecture.arguments)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise RequestError(
            f"Architecture {architecture.name!r} refuses the arguments {architecture.arguments}: {exc}."
        ) from exc
    if not isinstance(module, nn.Module):
        raise RequestError(f"{architecture.entrypoint!r} returned a {type(module).__name__}, not a torch.nn.Module.")
    return module


def _builder(architecture: Architecture, allow_python: bool, allowed_by: str) -> Builder:
    if architecture.entrypoint is not None:
        what = f"Architecture {architecture.name!r}"
        return load_function(architecture.entrypoint, what, allowed=allow_python, allowed_by=allowed_by)
    builder = ARCHITECTURES.get(architecture.name)
    if builder is None:
        raise RequestError(
            f"There is no architecture {architecture.name!r}; choose one of {', '.join(sorted(ARCHITECTURES))}, or "
            "give an `entrypoint`."
        )
    return builder


def parameter_count(module: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def seeded(seed: int, architecture: Architecture, *, allow_python: bool = False) -> nn.Module:
    """Return a module whose initial weights depend on `seed` only; see `build_module` for the errors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_module(architecture, allow_python=allow_python)
