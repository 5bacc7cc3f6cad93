"""ResNet-9, with the per-example GroupNorm that private training needs."""

from __future__ import annotations

from math import gcd
from typing import final

from torch import Tensor, nn

from sparring.roles import Model
from sparring.signals import DataShape
from sparring_zoo.parts import image, normalised
from sparring_zoo.plugin import ResNet9Config, ResNet20Config

SMALLEST = 8
"""Three poolings halve the image; one pixel must remain."""


@final
class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


@final
class GlobalMax(nn.Module):
    """Largest value of each channel, [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(dim=(-2, -1))


@final
class ResNet9(Model):
    """Convolutions of w, 2w (pool), a residual pair, 4w (pool), 8w (pool), a residual pair; global maximum; linear.

    w is ``width``; every convolution is 3x3 and followed by normalisation and ReLU. ``norm: group`` uses gcd(groups, channels)
    groups and depends on no other example (Wu and He, ECCV 2018, 1803.08494); ``norm: batch`` does, so it does not give
    `PerExample`. Images have at least 8x8 pixels. 6,573,130 parameters with the defaults on 3x32x32 inputs and 10 classes.

    Source: Page, "How to train your ResNet", 2018 (the DAWNBench entry), after He et al., CVPR 2016, 1512.03385.
    """

    def __init__(self, config: ResNet9Config) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        channels, _, _ = image("resnet9", shape, SMALLEST)
        w, block = self.config.width, self._block
        network = nn.Sequential(
            *block(channels, w),
            *block(w, 2 * w),
            nn.MaxPool2d(2),
            Residual(*block(2 * w, 2 * w), *block(2 * w, 2 * w)),
            *block(2 * w, 4 * w),
            nn.MaxPool2d(2),
            *block(4 * w, 8 * w),
            nn.MaxPool2d(2),
            Residual(*block(8 * w, 8 * w), *block(8 * w, 8 * w)),
            GlobalMax(),
            nn.Linear(8 * w, shape.classes),
        )
        return normalised("resnet9", self.config.normalise, shape, network)

    def _block(self, inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), norm(self.config, outputs), nn.ReLU()


def norm(config: ResNet9Config | ResNet20Config, channels: int) -> nn.Module:
    """The normalisation of ``channels`` that ``config`` asks for."""
    return nn.BatchNorm2d(channels) if config.norm == "batch" else nn.GroupNorm(gcd(config.groups, channels), channels)
