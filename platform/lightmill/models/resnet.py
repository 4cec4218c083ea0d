"""A small residual convolutional network.

K. He et al., "Deep residual learning for image recognition" (CVPR 2016), with normalization before each convolution as
in their "Identity mappings in deep residual networks" (ECCV 2016); Y. Wu and K. He, "Group normalization" (ECCV 2018).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization that takes a batch without rows, as the last worker of a step may have one."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the values normalized: [batch, channels, height, width]."""
        if self.training and len(input) == 0:
            return functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias)
        return super().forward(input)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the way around them."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.first_norm = _norm(norm, inputs)
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.second_norm = _norm(norm, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.around = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return [batch, outputs, height / stride, width / stride]."""
        ready = functional.relu(self.first_norm(values))
        found = self.second(functional.relu(self.second_norm(self.first(ready))))
        return found + (values if self.around is None else self.around(ready))


class ResNet(nn.Module):
    """A convolution, residual blocks, the mean over the picture, a linear layer."""

    def __init__(
        self, image: tuple[int, int, int], classes: int, channels: list[int], depth: int, norm: str, dropout: float
    ) -> None:
        super().__init__()
        self.image = image
        self.stem = nn.Conv2d(image[0], channels[0], 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        width = channels[0]
        for stage, count in enumerate(channels):
            for number in range(depth):
                self.blocks.append(ResidualBlock(width, count, 2 if stage and not number else 1, norm))
                width = count
        self.norm = _norm(norm, width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, classes] of float32 [batch, inputs]."""
        values = self.stem(features.unflatten(1, self.image))
        for block in self.blocks:
            values = block(values)
        return self.head(self.dropout(functional.relu(self.norm(values)).mean(dim=(2, 3))))


class ChannelsLast(nn.Module):
    """Puts pictures of [height, width, channels] as they are stored into the order of convolutions."""

    def __init__(self, image: tuple[int, int, int]) -> None:
        super().__init__()
        self.image = image

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return float32 [batch, inputs] with channels first."""
        return features.unflatten(1, self.image).permute(0, 3, 1, 2).flatten(1)


def resnet(
    *,
    inputs: int,
    classes: int,
    image: list[int],
    channels: list[int] | None = None,
    depth: int = 2,
    norm: str = "group",
    layout: str = "chw",
    dropout: float = 0.0,
) -> nn.Module:
    """Return a residual network: float32 [batch, inputs] to [batch, classes].

    `image` is [channels, height, width] with `layout` chw, [height, width, channels] with hwc, as `image_resize` makes
    it. Each entry of `channels` is a stage of `depth` blocks; all but the first halve height and width. `norm` is
    `group`, or `batch`, whose statistics are those of each worker's rows.
    """
    if len(image) != 3 or math.prod(image) != inputs:
        raise ValueError(f"image {image} does not hold the {inputs} inputs")
    if layout not in ("chw", "hwc") or norm not in ("group", "batch"):
        raise ValueError(f"layout {layout!r} is chw or hwc, norm {norm!r} is group or batch")
    wanted = channels or [16, 32, 64]
    if depth < 1 or min(wanted) < 1:
        raise ValueError(f"channels {wanted} and depth {depth} must be at least 1")
    first = (image[2], image[0], image[1]) if layout == "hwc" else (image[0], image[1], image[2])
    found = ResNet(first, classes, wanted, depth, norm, dropout)
    return nn.Sequential(ChannelsLast((image[0], image[1], image[2])), found) if layout == "hwc" else found


def _norm(kind: str, channels: int) -> nn.Module:
    return BatchNorm(channels) if kind == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)
