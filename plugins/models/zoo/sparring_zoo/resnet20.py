"""ResNet-20 for small images: three stages of three residual blocks."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from sparring.roles import Model
from sparring.signals import DataShape
from sparring_zoo.parts import image, normalised
from sparring_zoo.plugin import ResNet20Config
from sparring_zoo.resnet import norm

BLOCKS = 3
"""Blocks of a stage: 6 n + 2 layers with weights, n = 3."""
SMALLEST = 5
"""Two stages halve the image, rounding up; more than one pixel must remain, for BatchNorm's statistics of a lone example."""


@final
class Pad(nn.Module):
    """Every second pixel, with ``more`` channels of zeros behind the others."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.more))


@final
class Block(nn.Module):
    """ReLU(f(x) + s(x)), s being ``shortcut``."""

    def __init__(self, shortcut: nn.Module, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.shortcut(x))


@final
class ResNet20(Model):
    """A 3x3 convolution of w channels, three stages of three blocks with w, 2w and 4w, global average pooling, linear.

    w is ``width``. A block is two 3x3 convolutions, each with its norm, ReLU between them and after the sum. The second and
    third stages begin with stride 2; there the shortcut takes every second pixel and pads new channels with zeros (``pad``, the
    paper's option A on CIFAR-10: 269,722 parameters on 3x32x32 inputs and 10 classes), or is a 1x1 convolution of stride 2 with
    its norm (``projection``, option B: 272,474). Convolutions start from N(0, 2 / fan-in). ``norm: group`` depends on no other
    example and gives `PerExample`; ``norm: batch`` does not. Images have at least 5x5 pixels.

    Source: He, Zhang, Ren, Sun, CVPR 2016, 1512.03385, section 4.2; initialisation: the same authors, ICCV 2015, 1502.01852.
    """

    def __init__(self, config: ResNet20Config) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        channels, _, _ = image("resnet20", shape, SMALLEST)
        w = self.config.width
        blocks = [self._block(w, w) for _ in range(BLOCKS)]
        for k in (2 * w, 4 * w):
            blocks += [self._block(k // 2, k), *(self._block(k, k) for _ in range(BLOCKS - 1))]
        network = nn.Sequential(
            *self._normed(channels, w),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4 * w, shape.classes),
        )
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        return normalised("resnet20", self.config.normalise, shape, network)

    def _block(self, inputs: int, outputs: int) -> Block:
        stride = outputs // inputs
        if stride == 1:
            shortcut: nn.Module = nn.Identity()
        elif self.config.shortcut == "pad":
            shortcut = Pad(outputs - inputs)
        else:
            shortcut = nn.Sequential(*self._normed(inputs, outputs, 1, stride))
        return Block(shortcut, *self._normed(inputs, outputs, 3, stride), nn.ReLU(), *self._normed(outputs, outputs))

    def _normed(self, inputs: int, outputs: int, side: int = 3, stride: int = 1) -> tuple[nn.Module, nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)
        return convolution, norm(self.config, outputs)
