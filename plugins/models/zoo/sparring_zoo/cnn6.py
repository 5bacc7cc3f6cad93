"""CNN6 of Zhu and Blaschko: every layer of it can be solved for its input, or, in one variant, just not."""

from __future__ import annotations

from typing import final

from torch import nn

from sparring.roles import Model
from sparring.signals import DataShape
from sparring_zoo.parts import image, normalised
from sparring_zoo.plugin import CNN6Config

SLOPE = 0.2
SMALLEST = 4
LAYERS = ((12, 4, 2, 2), (36, 3, 2, 1), (36, 3, 1, 1), (36, 3, 1, 1), (64, 3, 2, 1), (128, 3, 1, 1))
"""Filters, kernel, stride and padding of the convolutions."""
DEFICIENT = 20
"""Filters of the second convolution in CNN6-d."""


@final
class CNN6(Model):
    """Six convolutions (12, 36, 36, 36, 64, 128 filters; strides 2, 2, 1, 1, 2, 1) with LeakyReLU(.2), then linear; no biases.

    A layer's filters and the gradient of its weights are linear equations in its input: here enough of them in every layer.
    ``deficient`` is the paper's CNN6-d: 20 filters in the second convolution, which on 32x32 images leave 280 of 3,468 numbers
    of its input undetermined. 154,256 parameters on 3x32x32 inputs and 10 classes. Images have at least 4x4 pixels.

    Source: Zhu and Blaschko, "R-GAP: recursive gradient attack on privacy", ICLR 2021, 2010.07733. There the last layer has one
    output and a logistic loss; here one output a class.
    """

    def __init__(self, config: CNN6Config) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        channels, height, width = image("cnn6", shape, SMALLEST)
        layers: list[nn.Module] = []
        for position, (filters, kernel, stride, padding) in enumerate(LAYERS):
            filters = DEFICIENT if position == 1 and self.config.deficient else filters
            layers += [nn.Conv2d(channels, filters, kernel, stride, padding, bias=False), nn.LeakyReLU(SLOPE)]
            channels = filters
            height, width = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        layers += [nn.Flatten(), nn.Linear(channels * height * width, shape.classes, bias=False)]
        return normalised("cnn6", self.config.normalise, shape, nn.Sequential(*layers))
