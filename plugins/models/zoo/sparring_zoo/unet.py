"""U-Net: one label for each pixel."""

from __future__ import annotations

from math import gcd
from typing import final

import torch
from torch import Tensor, nn

from sparring.roles import Model
from sparring.signals import DataShape
from sparring_zoo.parts import ACTIVATIONS, dense, normalised
from sparring_zoo.plugin import UNetConfig


@final
class Level(nn.Module):
    """A level of the U: what goes across is joined, by channel, with what comes up from below."""

    def __init__(self, enter: nn.Module, below: nn.Module, leave: nn.Module) -> None:
        super().__init__()
        self.enter, self.below, self.leave = enter, below, leave

    def forward(self, x: Tensor) -> Tensor:
        across = self.enter(x)
        out: Tensor = self.leave(torch.cat([across, self.below(across)], dim=1))
        return out


@final
class UNet(Model):
    """U-Net of ``depth`` levels above the bottom: logits [B, classes, H, W] of images [B, C, H, W].

    Level k has width 2^k channels: two 3x3 convolutions, each followed by GroupNorm and its nonlinearity; 2x2 maximum pooling
    on the way down, a transposed 2x2 convolution on the way up, the maps joined across; a 1x1 convolution at the end.
    Convolutions are padded, so that maps keep their size and nothing is cropped, as the paper's are; the paper has no
    normalisation. GroupNorm in gcd(groups, channels) groups depends on no other example. The sides of images are multiples
    of 2^depth.

    Source: Ronneberger, Fischer, Brox, MICCAI 2015, 1505.04597; GroupNorm: Wu, He, ECCV 2018, 1803.08494.
    """

    def __init__(self, config: UNetConfig) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        channels = dense("unet", shape, 2**self.config.depth)
        layers = nn.Sequential(self._level(channels, 0), nn.Conv2d(self.config.width, shape.classes, 1))
        return normalised("unet", self.config.normalise, shape, layers)

    def _level(self, inputs: int, k: int) -> nn.Module:
        w = self.config.width * 2**k
        if k == self.config.depth:
            return self._pair(inputs, w)
        below = nn.Sequential(nn.MaxPool2d(2), self._level(w, k + 1), nn.ConvTranspose2d(2 * w, w, 2, 2))
        return Level(self._pair(inputs, w), below, self._pair(2 * w, w))

    def _pair(self, inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for n in (inputs, outputs):
            norm = nn.GroupNorm(gcd(self.config.groups, outputs), outputs)
            layers += [nn.Conv2d(n, outputs, 3, padding=1), norm, ACTIVATIONS[self.config.activation]()]
        return nn.Sequential(*layers)
