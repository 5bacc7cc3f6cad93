"""Two networks called LeNet: that of Zhu et al., on which gradient inversion was first shown, and that of Caffe."""

from __future__ import annotations

from typing import final

from torch import nn

from sparring.roles import Model
from sparring.signals import DataShape
from sparring_zoo.parts import image, normalised
from sparring_zoo.plugin import LeNetCaffeConfig, LeNetZhuConfig

CHANNELS = 12
KERNEL = 5


@final
class LeNetZhu(Model):
    """Three 5x5 convolutions of 12 channels, strides 2, 2, 1 and padding 2, each with a sigmoid, then a linear layer.

    Twice differentiable everywhere and without pooling, which is what matching gradients by a second-order optimiser needs.
    15,826 parameters on 3x32x32 inputs and 10 classes. ``init: uniform`` draws every weight and bias from U(-0.5, 0.5): torch's
    default is so small that gradients vanish behind three sigmoids. Images have at least 5x5 pixels.

    Source: Zhu, Liu and Han, "Deep leakage from gradients", NeurIPS 2019, 1906.08935.
    """

    def __init__(self, config: LeNetZhuConfig) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        channels, height, width = image("lenet-zhu", shape, KERNEL)
        layers: list[nn.Module] = []
        for stride in (2, 2, 1):
            layers += [nn.Conv2d(channels, CHANNELS, KERNEL, stride, KERNEL // 2), nn.Sigmoid()]
            channels, height, width = CHANNELS, -(-height // stride), -(-width // stride)
        layers += [nn.Flatten(), nn.Linear(channels * height * width, shape.classes)]
        network = nn.Sequential(*layers)
        if self.config.init == "uniform":
            for parameter in network.parameters():
                nn.init.uniform_(parameter, -0.5, 0.5)
        return normalised("lenet-zhu", self.config.normalise, shape, network)


@final
class LeNetCaffe(Model):
    """5x5 convolutions of 20 and 50 channels, each with ReLU and 2x2 maximum pooling; 500 units with ReLU; then linear.

    The LeNet of the Caffe tutorial, and of much work on pruning and on robust aggregation, which puts a ReLU behind the
    convolutions too. 431,080 parameters on 1x28x28 inputs and 10 classes. No padding: images have at least 16x16 pixels.

    After LeCun et al., "Gradient-based learning applied to document recognition", Proceedings of the IEEE 86(11), 1998.
    """

    def __init__(self, config: LeNetCaffeConfig) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        channels, height, width = image("lenet-caffe", shape, 16)
        layers: list[nn.Module] = []
        for wider in (20, 50):
            layers += [nn.Conv2d(channels, wider, KERNEL), nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, width = wider, (height - KERNEL + 1) // 2, (width - KERNEL + 1) // 2
        layers += [nn.Flatten(), nn.Linear(channels * height * width, 500), nn.ReLU(), nn.Linear(500, shape.classes)]
        return normalised("lenet-caffe", self.config.normalise, shape, nn.Sequential(*layers))
