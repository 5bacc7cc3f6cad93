"""A small strided ConvNet: quick on CPUs, learns digits, and smooth enough to be inverted."""

from __future__ import annotations

from typing import final

from torch import nn

from sparring.roles import Model
from sparring.signals import DataShape
from sparring_zoo.parts import ACTIVATIONS, image, normalised
from sparring_zoo.plugin import ConvNetConfig

KERNEL = 5


@final
class ConvNet(Model):
    """Two 5x5 convolutions of ``width`` and 2 ``width`` channels, stride 2, padding 2, each with its nonlinearity; then linear.

    Strides stand where other networks pool: pooling drops what gradients say about a pixel. No normalisation layers. With the
    defaults, 53,002 parameters on 1x28x28 inputs and 10 classes. Images have at least 5x5 pixels.

    After LeCun et al., "Backpropagation applied to handwritten zip code recognition", Neural Computation 1(4), 1989.
    """

    def __init__(self, config: ConvNetConfig) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        channels, height, width = image("convnet", shape, KERNEL)
        layers: list[nn.Module] = []
        for wider in (self.config.width, 2 * self.config.width):
            layers += [nn.Conv2d(channels, wider, KERNEL, 2, KERNEL // 2), ACTIVATIONS[self.config.activation]()]
            channels, height, width = wider, -(-height // 2), -(-width // 2)
        layers += [nn.Flatten(), nn.Linear(channels * height * width, shape.classes)]
        return normalised("convnet", self.config.normalise, shape, nn.Sequential(*layers))
